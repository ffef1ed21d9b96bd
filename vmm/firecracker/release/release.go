// Package release fetches one pinned, official release of Firecracker. It has the release's
// hash, so a server can't choose what is run. It unpacks the two programs into a directory
// of the user, and only after the whole archive was checked.
//
// It knows nothing of how Firecracker is used, and doesn't run it.
package release

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/fetch"
)

const (
	Version = "v1.16.1" // the release that is fetched
	// Mirror is where releases are published, a directory per version.
	Mirror = "https://github.com/firecracker-microvm/firecracker/releases/download"

	arch = "x86_64"
	name = "firecracker-" + Version + "-" + arch + ".tgz"

	// Bounds the size of a program, in bytes: sizes in an archive aren't trusted.
	maxProgram = 128 << 20
)

// archive is the release: change it with Version.
var archive = fetch.Blob{SHA256: "382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6", Size: 7_486_686}

// Installed are the paths of a release's programs.
type Installed struct {
	Version     string `json:"version"`
	Firecracker string `json:"firecracker"`
	Jailer      string `json:"jailer"`
}

// Installer fetches into a directory, in which each version has its own.
type Installer struct {
	Dir    string
	Mirror string        // empty: Mirror
	Client *http.Client  // nil: fetch.NewClient
	Stall  time.Duration // how long a server may be silent; 0: 30 s

	other *fetch.Blob // in place of archive, for tests
}

// Path is where Install puts Firecracker, there or not.
func (i Installer) Path() string { return filepath.Join(i.Dir, Version, "firecracker") }

// Find returns the release that is installed. An error of fs.ErrNotExist means
// that it isn't, or not whole.
func (i Installer) Find() (Installed, error) {
	dir := filepath.Join(i.Dir, Version)
	in := Installed{Version: Version, Firecracker: filepath.Join(dir, "firecracker"), Jailer: filepath.Join(dir, "jailer")}
	for _, path := range []string{in.Firecracker, in.Jailer} {
		if _, err := os.Stat(path); err != nil {
			return Installed{}, err
		}
	}
	return in, nil
}

// Install fetches the release unless it is there.
func (i Installer) Install(ctx context.Context) (Installed, error) {
	if in, err := i.Find(); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return in, err
	}
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return Installed{}, err
	}
	if err := fetch.Sweep(i.Dir); err != nil {
		return Installed{}, err
	}
	file, err := i.fetch(ctx)
	if err != nil {
		return Installed{}, err
	}
	archive, err := os.Open(file)
	if err != nil {
		return Installed{}, err
	}
	defer func() { _, _ = archive.Close(), os.Remove(file) }()
	tmp, err := os.MkdirTemp(i.Dir, ".fetching-")
	if err != nil {
		return Installed{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	dir := filepath.Join(tmp, Version)
	if err := unpack(archive, dir); err != nil {
		return Installed{}, banger.Errorf(banger.CodeInvalid, "unpack Firecracker %s: %w", Version, err)
	}
	// A rename fails if the directory is there: another process was first, and its stays.
	if err := os.Rename(dir, filepath.Join(i.Dir, Version)); err != nil {
		if in, ferr := i.Find(); ferr == nil {
			return in, nil
		}
		return Installed{}, err
	}
	return i.Find()
}

// fetch returns the path of the archive, checked, in Dir.
func (i Installer) fetch(ctx context.Context) (string, error) {
	base, want := i.Mirror, archive
	if base == "" {
		base = Mirror
	}
	if i.other != nil {
		want = *i.other
	}
	address := strings.TrimSuffix(base, "/") + "/" + Version + "/" + name
	file, err := fetch.Fetcher{Client: i.Client, Stall: i.Stall}.Download(ctx, address, i.Dir, want, func(int64) {})
	if errors.Is(err, fetch.ErrMissing) {
		err = banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", fetch.Shown(address), err)
	}
	if e, ok := errors.AsType[*banger.Error](err); ok {
		return "", e.WithHint("nothing was installed: try another place with --mirror, or put a firecracker into PATH")
	}
	return file, err
}

// unpack writes the release's two programs to a new directory, and nothing else
// of the archive. No name in it is ever used as a path.
func unpack(archive io.Reader, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	z, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	suffix := "-" + Version + "-" + arch
	missing := map[string]bool{"firecracker": true, "jailer": true}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for program := range missing {
			if h.Typeflag != tar.TypeReg || strings.TrimPrefix(h.Name, "./") != "release"+suffix+"/"+program+suffix {
				continue
			}
			if h.Size > maxProgram {
				return fmt.Errorf("%s is larger than %d bytes", program, maxProgram)
			}
			if err := write(filepath.Join(dir, program), t); err != nil {
				return err
			}
			delete(missing, program)
		}
	}
	for program := range missing {
		return fmt.Errorf("no %s in the archive", program)
	}
	return nil
}

// write writes a program and syncs it, before it is renamed into place.
func write(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
