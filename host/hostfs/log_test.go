package hostfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/host/hostfs"
)

// However much is appended, at most twice the limit is kept, and the last bytes are.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := &hostfs.Log{Path: path, Limit: 100}
	for i := range 100 {
		l.Append([]byte(strings.Repeat(string(rune('a'+i%26)), 30)))
	}
	l.Close()
	new, err := os.ReadFile(path)
	old, err2 := os.ReadFile(path + ".1")
	if err != nil || err2 != nil || len(new) > 100 || len(old) > 100 || len(old)+len(new) < 100 {
		t.Fatalf("%d and %d bytes, %v, %v", len(old), len(new), err, err2)
	}
	if last := string(rune('a' + 99%26)); !strings.HasSuffix(string(new), strings.Repeat(last, 30)) {
		t.Errorf("it ends with %q", new)
	}
}
