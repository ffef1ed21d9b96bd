package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/fetch"
	"banger/host/hostfs"
)

// notOlder refuses a release file that is older than one seen before, and records the
// newest date. A hostile mirror could serve an old file and so hide updates: its
// signature is valid, and most suites have no expiry date.
func (s Source) notOlder(ctx context.Context, address string, date time.Time) error {
	if s.SeenDir == "" {
		return nil
	}
	if err := os.MkdirAll(s.SeenDir, 0o700); err != nil {
		return err
	}
	lock, err := hostfs.OpenLocked(ctx, filepath.Join(s.SeenDir, ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	file := filepath.Join(s.SeenDir, s.Codename)
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A damaged record is written anew.
	seen, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err == nil && date.Before(seen) {
		return banger.Errorf(banger.CodeUnavailable, "release file %s is of %s, and one of %s was seen before", fetch.Shown(address), date.Format(time.DateTime), seen.Format(time.DateTime)).
			WithHint("the mirror may be behind: try again later, or set another one; to use the older file all the same, remove %s", file)
	}
	if err == nil && date.Equal(seen) {
		return nil
	}
	return hostfs.Replace(file, []byte(date.Format(time.RFC3339)+"\n"), 0o600)
}
