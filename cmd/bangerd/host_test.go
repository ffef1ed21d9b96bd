package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Where everybody may make files, what somebody else has made under our names isn't
// taken for ours, and keeps nobody from a directory of their own.
func TestPrivateDir(t *testing.T) {
	in := t.TempDir()
	first := filepath.Join(in, privateName())
	for name, squat := range map[string]func() error{
		"nothing": func() error { return nil },
		"a file":  func() error { return os.WriteFile(first, nil, 0o600) },
		"a link":  func() error { return os.Symlink(t.TempDir(), first) },
		"an open directory": func() error {
			if err := os.Mkdir(first, 0o700); err != nil {
				return err
			}
			return os.Chmod(first, 0o777)
		},
		"another's": func() error {
			if err := os.Mkdir(first, 0o700); err != nil || os.Getuid() != 0 {
				return err // without root: ours, and as good as none
			}
			return os.Chown(first, 65534, 65534)
		},
	} {
		if err := squat(); err != nil {
			t.Fatal(err)
		}
		dir, err := privateDir(in)
		if err != nil || isPrivate(dir) != nil {
			t.Errorf("%s: %q, %v", name, dir, err)
		}
		if again, err := privateDir(in); err != nil || again != dir {
			t.Errorf("%s: %q and then %q, %v", name, dir, again, err)
		}
		made, err := filepath.Glob(first + "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range made {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 16 {
		name := first
		if i > 0 {
			name += fmt.Sprintf(".%d", i)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if dir, err := privateDir(in); err == nil {
		t.Errorf("all names are taken, and %s is ours", dir)
	}
}

// What an earlier build left directly in /dev/shm is looked for, too.
func TestRAMDirs(t *testing.T) {
	state := t.TempDir()
	now, err := ramDir(state)
	if err != nil {
		t.Fatal(err)
	}
	all := ramDirs(state, now)
	for _, want := range []string{now, shm, filepath.Join(state, "ram")} {
		if !slices.Contains(all, want) {
			t.Errorf("%s isn't among %q", want, all)
		}
	}
	if err := isPrivate(now); err != nil {
		t.Error(err)
	}
}
