// Package packaged keeps a QEMU of Debian's packages in a directory of the user, for hosts
// that have none. It owns which packages and which of their files that takes: the program, the
// libraries that it needs with their loader, so that any distribution will do, and firmware.
//
// It runs nothing of a package, and knows nothing of what QEMU is used for. How packages are
// found and trusted is fetch/debian's.
package packaged

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
	"banger/host/hostfs"
)

// release is the Debian release that QEMU comes from.
const release = "trixie"

// Installer fetches into Dir:
//
//	ID/qemu-system-x86_64  ID/qemu-loader  ID/lib/NAME  ID/share/NAME  ID/qemu.json
//
// A directory ID appears complete, by one rename. Several processes may share Dir.
type Installer struct {
	Dir  string
	From debian.Source // no other Dir may use its CacheDir
}

// Installed is a QEMU that was fetched.
type Installed struct {
	ID       string    `json:"id"`
	Version  string    `json:"version"`  // of the package
	Packages []string  `json:"packages"` // each with its version and hash
	Fetched  time.Time `json:"fetched"`

	dir string
}

// Names in an installed directory. The loader's begins as QEMU's, since it is what runs: a
// VMM is recognised by the name of its program.
const (
	program   = "qemu-system-x86_64"
	loader    = "qemu-loader"
	libraries = "lib"
	firmware  = "share"
	record    = "qemu.json"
	building  = ".fetching-"
)

// Cost says about what Install takes. Measured with QEMU 10.0 in December 2026: an index of
// 10 MB is part of it.
func (i Installer) Cost() banger.Missing {
	return banger.Missing{Kind: "hypervisor", Name: "qemu", Source: i.From.Root(), Download: 38 << 20, Disk: 64 << 20, Seconds: 15}
}

// Path is the program.
func (i Installed) Path() string { return filepath.Join(i.dir, program) }

// Command is how the program is started: by its own loader, with its own libraries and
// firmware. QEMU's arguments follow. It loads all libraries at once: what runs outlives its
// directory.
func (i Installed) Command() []string {
	return []string{
		filepath.Join(i.dir, loader), "--inhibit-cache", "--library-path", filepath.Join(i.dir, libraries), "--preload", hidden,
		i.Path(), "-L", filepath.Join(i.dir, firmware),
	}
}

// Find returns the newest QEMU that was fetched. An error of fs.ErrNotExist means that there is
// none.
func (i Installer) Find() (newest Installed, err error) {
	records, _ := filepath.Glob(filepath.Join(i.Dir, "*", record)) // a pattern in Dir finds nothing, and then it is fetched again
	for _, path := range records {
		var in Installed
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &in) != nil || in.ID != filepath.Base(filepath.Dir(path)) {
			continue // half removed, or damaged
		}
		if in.Fetched.After(newest.Fetched) {
			newest, newest.dir = in, filepath.Dir(path)
		}
	}
	if newest.ID == "" {
		return newest, fmt.Errorf("QEMU in %s: %w", i.Dir, fs.ErrNotExist)
	}
	return newest, nil
}

// Install fetches the newest QEMU of the release, unless it is there, and removes older ones:
// what runs keeps its files. When two do so at once, it is fetched once.
func (i Installer) Install(ctx context.Context, p banger.Progress) (in Installed, err error) {
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return in, err
	}
	lock, err := hostfs.OpenLocked(ctx, filepath.Join(i.Dir, ".lock"))
	if err != nil {
		return in, fmt.Errorf("wait for another fetch of QEMU: %w", err)
	}
	defer lock.Close()
	defer fetch.Hold(ctx, i.From.CacheDir)()
	dead, _ := filepath.Glob(filepath.Join(i.Dir, building+"*")) // as in Find
	for _, dir := range dead {
		if err := os.RemoveAll(dir); err != nil {
			return in, err
		}
	}
	if in, err = i.install(ctx, fetch.Report(p, "qemu")); err != nil && ctx.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "fetch of QEMU: %w", context.Cause(ctx))
	}
	return in, err
}

func (i Installer) install(ctx context.Context, report fetch.Reports) (Installed, error) {
	packages, err := i.resolve(ctx, report)
	if err != nil {
		return Installed{}, err
	}
	in := describe(packages)
	in.dir = filepath.Join(i.Dir, in.ID)
	if old, err := i.Find(); err == nil && old.ID == in.ID {
		return old, nil
	}
	tmp, err := os.MkdirTemp(i.Dir, building)
	if err != nil {
		return Installed{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // on success it was renamed before
	debs, err := i.fetch(ctx, packages, report)
	if err != nil {
		return Installed{}, err
	}
	report("unpacking QEMU "+in.Version, 0)(0)
	if err := assemble(ctx, debs, tmp); err != nil {
		return Installed{}, banger.Errorf(banger.CodeUnavailable, "QEMU %s of Debian's packages: %w", in.Version, err).
			WithHint("install qemu-system-x86 of this host's distribution instead")
	}
	if i.From.Now == nil {
		i.From.Now = time.Now
	}
	in.Fetched = i.From.Now().UTC()
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return Installed{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp, record), data, 0o600); err != nil {
		return Installed{}, err
	}
	if err := i.publish(tmp, in); err != nil {
		return Installed{}, err
	}
	return in, os.RemoveAll(i.From.CacheDir)
}

// publish gives a finished directory its name, durably, and removes all others.
func (i Installer) publish(tmp string, in Installed) error {
	// One of that name has no readable record: it is damaged.
	if err := errors.Join(os.RemoveAll(in.dir), hostfs.SyncAll(tmp)); err != nil {
		return err
	}
	if err := os.Rename(tmp, in.dir); err != nil {
		return err
	}
	if err := hostfs.SyncDir(i.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(i.Dir)
	for _, e := range entries {
		if e.IsDir() && e.Name() != in.ID {
			err = errors.Join(err, os.RemoveAll(filepath.Join(i.Dir, e.Name())))
		}
	}
	return err
}

// describe says what is made of packages. The id tells two sets of packages apart.
func describe(packages []pkg) (in Installed) {
	sum := sha256.New()
	for _, p := range packages {
		if p.name == wanted[0] {
			in.Version = p.version
		}
		line := p.name + " " + p.version + " sha256:" + p.file.SHA256
		in.Packages = append(in.Packages, line)
		_, _ = fmt.Fprintln(sum, format, line) // a hash takes all
	}
	in.ID = hex.EncodeToString(sum.Sum(nil)[:6])
	return in
}

// format is the version of the layout of a directory.
const format = 1

// Short is the version without Debian's part, as QEMU prints it: "10.0.13".
func (i Installed) Short() string {
	_, v, ok := strings.Cut(i.Version, ":")
	if !ok {
		v = i.Version
	}
	v, _, _ = strings.Cut(v, "+")
	v, _, _ = strings.Cut(v, "-")
	return v
}
