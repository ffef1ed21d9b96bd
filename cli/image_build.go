package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/images"
)

// maxList bounds the files a build is told by.
const maxList = 8 << 20

// releases names the images of the suites that can be built.
var releases = map[string]string{"bookworm": "debian-12", "trixie": "debian-13"}

func imageBuildCommand(a *App) *cobra.Command {
	var list, suite, lock, snapshot string
	var replace, quiet bool
	cmd := &cobra.Command{
		Use:   "build [IMAGE]",
		Short: "Build an image of Debian packages, with no tool of the host",
		Long: `Builds an image of Debian packages: those of the list, the essential ones, and
all that these need. They are resolved against the archive's signed index,
fetched, checked, unpacked, and configured in a microVM.

The archive moves on, and so does what a list gives. An image remembers its
packages with their versions and hashes: "image show --lock" prints them, and a
build with --lock repeats exactly those.

An image of that name that was built before is left as it is; --replace builds
it anew when the archive has other packages by now. What was fetched stays in
the cache for a week, and a build that was interrupted goes on with it.`,
		Example: `  banger image build
  banger image build debian-13 --suite trixie
  banger image build mine --list packages.txt
  banger image show debian-12 --lock > debian-12.lock
  banger image build again --lock debian-12.lock`,
		Args: nargs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			r, err := recipe(list, suite, lock)
			if err != nil {
				return err
			}
			r.Replace, r.Snapshot = replace, snapshot
			if len(args) == 1 {
				r.Name = args[0]
			}
			show := a.progress(quiet)
			img, err := a.Builder.BuildImage(ctx, r, show.event)
			show.end()
			if err != nil {
				return err
			}
			return a.print(img, func(w io.Writer) { _, _ = fmt.Fprintln(w, img.Name) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&list, "list", "", "file with one package a line, # begins a comment (default: the default image's)")
	f.StringVar(&suite, "suite", "", `Debian's release: bookworm or trixie (default "bookworm")`)
	f.StringVar(&lock, "lock", "", "file with the very packages to take, from image show --lock")
	f.StringVar(&snapshot, "snapshot", "", "archive of archives, for packages of a lock that the mirror no longer has\n(default https://snapshot.debian.org/archive)")
	f.BoolVar(&replace, "replace", false, "take the name from the image that has it, if the packages differ")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// recipe reads what an image is to be made of.
func recipe(list, suite, lock string) (banger.Recipe, error) {
	if lock != "" {
		if list != "" || suite != "" {
			return banger.Recipe{}, banger.Errorf(banger.CodeInvalid, "a lock says itself which packages of which suite it means").
				WithHint("leave --list and --suite out")
		}
		data, err := readList(lock)
		if err != nil {
			return banger.Recipe{}, err
		}
		var l banger.Lock
		if err := json.Unmarshal(data, &l); err != nil {
			return banger.Recipe{}, banger.Errorf(banger.CodeInvalid, "lock file %s: %w", lock, err).
				WithHint("make one by: banger image show --lock IMAGE > FILE")
		}
		return banger.Recipe{Name: releases[l.Suite], Lock: &l}, nil
	}
	if suite == "" {
		suite = "bookworm"
	}
	r := banger.Recipe{Name: releases[suite], Suite: suite, Packages: images.Default()}
	if r.Name == "" {
		return r, banger.Errorf(banger.CodeInvalid, "no suite %q", suite).WithHint("there are bookworm and trixie")
	}
	if list != "" {
		data, err := readList(list)
		if err != nil {
			return r, err
		}
		r.Packages = images.Parse(string(data))
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
		err = fmt.Errorf("%s is longer than %d bytes: no list of packages", path, maxList)
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	return data, nil
}

func imageShowCommand(a *App) *cobra.Command {
	var lock bool
	cmd := &cobra.Command{
		Use: "show IMAGE", Short: "Show an image, and the packages it was built from",
		Example: `  banger image show debian-12
  banger image show debian-12 --lock > debian-12.lock`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			img, err := a.Builder.Image(ctx, args[0])
			if err != nil {
				return err
			}
			if !lock {
				return a.print(img, func(w io.Writer) { showImage(w, img) })
			}
			if img.Lock == nil {
				return banger.Errorf(banger.CodeInvalid, "image %s was imported, not built: nobody knows its packages", img.Name).
					WithHint("banger image build makes one whose packages are known")
			}
			e := json.NewEncoder(a.Out)
			e.SetIndent("", "  ")
			return e.Encode(img.Lock)
		},
	}
	cmd.Flags().BoolVar(&lock, "lock", false, "print the packages as a lock file for image build")
	return cmd
}

func showImage(w io.Writer, img banger.Image) {
	rows := [][]string{
		{"name", img.Name}, {"id", img.ID}, {"size", formatBytes(img.Size)}, {"entries", strconv.Itoa(img.Entries)},
		{"source", printable(img.Source, 200)}, {"created", img.Created.Local().Format(time.DateTime)},
	}
	if img.Lock == nil {
		table(w, rows)
		return
	}
	var size int64
	for _, p := range img.Lock.Packages {
		size += p.Size
	}
	table(w, append(rows, []string{"archive", img.Lock.Suite + " of " + img.Lock.Date.UTC().Format(time.RFC3339)},
		[]string{"packages", fmt.Sprintf("%d, %s to fetch", len(img.Lock.Packages), formatBytes(size))}))
	_, _ = fmt.Fprintln(w)
	list := [][]string{{"PACKAGE", "VERSION", "SHA256"}}
	for _, p := range img.Lock.Packages {
		list = append(list, []string{printable(p.Name, 128), printable(p.Version, 128), printable(p.SHA256, 64)})
	}
	table(w, list)
}
