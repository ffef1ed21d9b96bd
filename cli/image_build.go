package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// maxList bounds the size of a list or a lock, in bytes.
const maxList = 8 << 20

func imageBuildCommand(a *App) *cobra.Command {
	var list, suite, lock, snapshot string
	var minimal, replace, quiet bool
	cmd := answer(a, &cobra.Command{
		Use:   "build [IMAGE]",
		Short: "Build an image of Debian packages, without other tools on the host",
		Long: `Builds an image of Debian packages: those of the list, the essential ones, and
all that these need. Without --list it is the default list: compilers, git, python3,
editors, ssh, and what scripts ask for; with --minimal, the short one that the first VM
of a host gets. Packages are resolved against the archive's signed index,
fetched, checked, unpacked, and configured in a microVM.

As the archive changes, a list gives newer packages. An image records its packages
with their versions and hashes: "image show --lock" prints them, and a build with
--lock takes exactly those.

If an image of that name was built before, it is left as it is; --replace builds it
anew when the archive has other packages now. What was fetched stays in the cache
for a week, and the next build uses it.`,
		Example: `  banger image build
  banger image build --replace debian-12
  banger image build debian-13
  banger image build mine --list packages.txt
  banger image show debian-12 --lock > debian-12.lock
  banger image build again --lock debian-12.lock`,
		Args: nargs(0, 1),
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		r, err := recipe(list, suite, lock)
		if err != nil {
			return banger.Image{}, err
		}
		r.Minimal, r.Replace, r.Snapshot = minimal, replace, snapshot
		if len(args) == 1 {
			r.Name = args[0]
		}
		show := a.progress(quiet)
		defer show.end()
		began := time.Now()
		img, err := a.Images().BuildImage(ctx, r, show.event)
		if err == nil && img.Created.Before(began) {
			hint := "; --replace builds it anew"
			if replace {
				hint = ", which is what would be built now"
			}
			show.aside("image %s was here already: %s%s", img.Name, img.Source, hint)
		}
		return img, err
	}, imageName)
	f := cmd.Flags()
	f.StringVar(&list, "list", "", "file with one package a line, # begins a comment (default: the default image's)")
	f.BoolVar(&minimal, "minimal", false, "take the minimal list: an init, git, gcc, make, curl; no python3, no editor")
	f.StringVar(&suite, "suite", "", `Debian's release: bookworm or trixie (default the name's: debian-13 is trixie; else bookworm)`)
	f.StringVar(&lock, "lock", "", "file with the exact packages to take, from image show --lock")
	f.StringVar(&snapshot, "snapshot", "", "archive of old packages, for those of a lock that the mirror no longer has\n(default https://snapshot.debian.org/archive)")
	f.BoolVar(&replace, "replace", false, "take the name from the image that has it, if the packages differ")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// recipe reads what an image is to be made of.
func recipe(list, suite, lock string) (banger.Recipe, error) {
	if lock != "" {
		if list != "" || suite != "" {
			return banger.Recipe{}, banger.Errorf(banger.CodeInvalid, "a lock already says which packages of which suite to take").
				WithHint("leave --list and --suite out")
		}
		data, err := readList(lock)
		if err != nil {
			return banger.Recipe{}, err
		}
		var l banger.Lock
		if err := json.Unmarshal(data, &l); err != nil {
			return banger.Recipe{}, banger.Errorf(banger.CodeInvalid, "lock file %s: %w", lock, err).
				WithHint("`banger image show --lock IMAGE > FILE` makes one")
		}
		return banger.Recipe{Lock: &l}, nil
	}
	r := banger.Recipe{Suite: suite}
	if list == "" {
		return r, nil
	}
	data, err := readList(list)
	if err != nil {
		return r, err
	}
	if r.Packages = banger.PackageList(string(data)); len(r.Packages) == 0 {
		return r, banger.Errorf(banger.CodeInvalid, "list %s names no package", list).
			WithHint("for the smallest image name only apt: the essential packages are always there")
	}
	return r, nil
}

func readList(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err == nil && len(data) > maxList {
		err = fmt.Errorf("%s is longer than %d bytes, so it is no list of packages", path, maxList)
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	return data, nil
}
