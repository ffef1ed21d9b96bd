package console_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/daemon/console"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// No log, one log, an older one too; live or not, what is there is read once.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ file, text, want string }{
		{"", "", ""},
		{"console.log", "new\n", "new\n"},
		{"console.log.1", "old\n", "old\nnew\n"},
	} {
		if c.file != "" {
			write(t, filepath.Join(dir, c.file), c.text)
		}
		for _, live := range []func() bool{nil, func() bool { return false }} {
			r, err := console.Open(t.Context(), dir, live)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
				t.Errorf("%q: %q, %v", c.file, got, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// What a guest wrote is fit for a terminal, and not endless.
func TestTail(t *testing.T) {
	dir := t.TempDir()
	if got := console.Tail(dir); got != "(there is none)" {
		t.Errorf("%q", got)
	}
	write(t, filepath.Join(dir, "console.log"), "\x1b[2J\x00\n")
	if got := console.Tail(dir); strings.ContainsAny(got, "\x1b\x00") {
		t.Errorf("%q", got)
	}
	write(t, filepath.Join(dir, "console.log"), strings.Repeat("x", 1<<20)+"\npanic\n")
	if got := console.Tail(dir); len(got) > 600 || !strings.HasSuffix(got, "\npanic") {
		t.Errorf("%d bytes: %.40q", len(got), got)
	}
}
