package xdg

import (
	"os"
	"strings"
	"testing"
)

// Records in what another user can change are nobody's to trust.
func TestDirectoryOfAnotherUser(t *testing.T) {
	theirs := "/"
	if os.Getuid() == 0 {
		theirs = t.TempDir()
		if err := os.Chown(theirs, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Dirs{State: theirs}).Make(); err == nil || !strings.Contains(err.Error(), "belongs to user") {
		t.Errorf("%s: got %v, want it refused", theirs, err)
	}
}
