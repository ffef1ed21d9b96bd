// Package fcrelease fetches one pinned, official release of Firecracker: checks
// it against the checksum published with it and unpacks its two programs into a
// directory of the user's. Nothing is put in place before all of it was checked.
//
// It refuses to know how Firecracker is driven, and to run what it fetched.
package fcrelease

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"banger"
)

const (
	Version = "v1.16.1" // the release that is fetched
	// Mirror is where releases are published, a directory per version.
	Mirror = "https://github.com/firecracker-microvm/firecracker/releases/download"

	arch = "x86_64"

	// What is fetched is not trusted, its size neither: releases take about 10 MiB,
	// a program unpacked a few.
	maxSum     = 4 << 10
	maxArchive = 256 << 20
	maxProgram = 128 << 20
)

// Installed are the paths of a release's programs.
type Installed struct {
	Version     string `json:"version"`
	Firecracker string `json:"firecracker"`
	Jailer      string `json:"jailer"`
}

// Installer fetches into a directory, in which each version has its own.
type Installer struct {
	Dir    string
	Mirror string // empty: Mirror
	Client *http.Client
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
	tmp, err := os.MkdirTemp(i.Dir, ".fetching-")
	if err != nil {
		return Installed{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	archive, err := i.fetch(ctx, tmp)
	if err != nil {
		return Installed{}, err
	}
	defer func() { _ = archive.Close() }()
	dir := filepath.Join(tmp, Version)
	if err := unpack(archive, dir); err != nil {
		return Installed{}, banger.Errorf(banger.CodeInvalid, "unpack Firecracker %s: %w", Version, err)
	}
	// Renaming over a directory works when it is empty only: whoever came first stays.
	if err := os.Rename(dir, filepath.Join(i.Dir, Version)); err != nil {
		if in, ferr := i.Find(); ferr == nil {
			return in, nil
		}
		return Installed{}, err
	}
	return i.Find()
}

// fetch returns the archive, checked, at its beginning.
func (i Installer) fetch(ctx context.Context, tmp string) (_ *os.File, err error) {
	name := "firecracker-" + Version + "-" + arch + ".tgz"
	var text strings.Builder
	if err := i.get(ctx, name+".sha256.txt", &text, maxSum); err != nil {
		return nil, err
	}
	want, _, _ := strings.Cut(strings.TrimSpace(text.String()), " ")
	if b, err := hex.DecodeString(want); err != nil || len(b) != sha256.Size {
		return nil, banger.Errorf(banger.CodeInvalid, "%s.sha256.txt doesn't begin with a SHA-256 sum: %.80q", name, text.String())
	}
	f, err := os.Create(filepath.Join(tmp, "archive"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	sum := sha256.New()
	if err := i.get(ctx, name, io.MultiWriter(f, sum), maxArchive); err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != strings.ToLower(want) {
		return nil, banger.Errorf(banger.CodeInvalid, "%s has the SHA-256 sum %s, published is %s", name, got, want).
			WithHint("nothing was installed; try again, or another mirror")
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

func (i Installer) get(ctx context.Context, name string, w io.Writer, most int64) error {
	base, client := i.Mirror, i.Client
	if base == "" {
		base = Mirror
	}
	if client == nil {
		client = http.DefaultClient
	}
	url := strings.TrimSuffix(base, "/") + "/" + Version + "/" + name
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return banger.Errorf(banger.CodeInvalid, "mirror: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "fetch Firecracker: %w", err).
			WithHint("nothing was installed; --mirror names another place, and one in PATH does as well")
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return banger.Errorf(banger.CodeUnavailable, "fetch %s: the server says %s", url, resp.Status)
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, most+1))
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", url, err)
	}
	if n > most {
		return banger.Errorf(banger.CodeInvalid, "%s is larger than %d bytes", url, most)
	}
	return nil
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

// write writes a program and has it on the disk before it gets its name's place.
func write(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
