package fetch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"banger/host/hostfs"
)

// keepDownloads is how long a download is kept. After that nobody will want the file:
// the archive has newer ones.
const keepDownloads = 7 * 24 * time.Hour

var downloadName = regexp.MustCompile(`^[0-9a-f]{64}(\.part)?$`)

// IsDownload reports whether a file's name has the form that Download gives.
func IsDownload(name string) bool { return downloadName.MatchString(name) }

// touch marks a download as used now. Sweep removes what wasn't used for long.
func touch(file string) { _ = os.Chtimes(file, time.Time{}, time.Now()) }

// Hold keeps others from removing files from a directory of downloads until release is
// called. It makes the directory when missing. On filesystems without locks (flock(2))
// it does nothing: those who remove files need a lock, too, and don't get one.
func Hold(ctx context.Context, dir string) (release func()) {
	_ = os.MkdirAll(dir, 0o700) // the download reports the error
	d, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	_ = hostfs.Share(ctx, d)
	return func() { _ = d.Close() }
}

// Use marks a download as used now, for who reads it later than it was fetched.
func Use(file string) { touch(file) }

// Sweep removes downloads from dir that nobody used for a week. It does nothing while
// somebody holds dir, who may be about to read one of them; so its caller can't either.
func Sweep(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if hostfs.TryLock(d) != nil {
		return nil // the next one does it
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	since := time.Now().Add(-keepDownloads)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !IsDownload(e.Name()) || info.ModTime().After(since) {
			continue // removed meanwhile, not ours, or in use
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
