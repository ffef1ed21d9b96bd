package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
)

// A directory that is in no repository is copied as it is, and its size is told. Before
// much is copied, or a home, somebody is asked; without a terminal it is refused.
func TestDirectoryAsItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	for name, text := range map[string]string{"index.html": "hello", "css/a.css": "body", ".hidden": "too"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	a := &App{In: strings.NewReader(""), Err: &said}
	f := &filesFlags{}
	what, err := f.open(t.Context(), a, dir+"/../site")
	if err != nil || what.place() != "/root/site" || !strings.Contains(said.String(), "isn't a git repository: 3 files, 12 B") {
		t.Fatalf("%+v, %v: %s", what, err, said.String())
	}
	var packed bytes.Buffer
	if err := what.tar(context.Background(), &packed); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(&packed); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[h.Name] = string(text)
	}
	if want := map[string]string{"site/": "", "site/css/": "", "site/index.html": "hello", "site/css/a.css": "body", "site/.hidden": "too"}; !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	if err := os.Truncate(filepath.Join(dir, "index.html"), askAbove+1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(t.Context(), a, dir); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "3 files, 1.0 GiB") {
		t.Errorf("a large one: %v", err)
	}
	t.Setenv("HOME", t.TempDir())
	home, _ := os.UserHomeDir()
	if _, err := f.open(t.Context(), a, home); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "this would copy all of "+home) {
		t.Errorf("a home: %v", err)
	}
	if _, err := f.open(t.Context(), a, "/"); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("the root: %v", err)
	}
	said.Reset()
	f.yes, f.quiet = true, true
	for _, d := range []string{dir, home} {
		if _, err := f.open(t.Context(), a, d); err != nil || said.Len() > 0 {
			t.Errorf("%s, with -y and -q: %v: %s", d, err, said.String())
		}
	}
}
