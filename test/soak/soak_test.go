package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// begin returns the work of a new directory after so many things, on this host.
func begin(t *testing.T, which, things int) *work {
	t.Helper()
	w := newWork(1, which, filepath.Join(t.TempDir(), "work"), 0)
	for range things {
		if err := w.step(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// What was done is known from its number alone, and right whether or not the last thing
// was heard of.
func TestKnownFromItsNumber(t *testing.T) {
	for which := range 2 {
		for things := 1; things < 50; things += 12 {
			dir := begin(t, which, things).dir
			for _, heard := range []int{things, things - 1} {
				w := newWork(1, which, dir, heard)
				if _, _, err := w.check(); err != nil {
					t.Errorf("directory %d, %d of %d heard of: %v", which, heard, things, err)
				}
				if _, _, err := w.checkCat(); err != nil {
					t.Errorf("directory %d, %d of %d heard of, through a pipe: %v", which, heard, things, err)
				}
			}
		}
	}
}

// A zero in the place of another byte is found in any file, and so is an older one in its place, one that
// is too short and one that is gone.
func TestWrongIsFound(t *testing.T) {
	for which := range 2 {
		dir := begin(t, which, 50).dir
		w := newWork(1, which, dir, 50)
		var files []string
		for n := w.firstMark(); w.shell && n <= w.done; n++ {
			files = append(files, w.mark(n))
		}
		for slot, f := range w.plan.files {
			if f != nil && slot != w.next.slot { // to that one the next thing may have been done
				files = append(files, w.path(slot))
			}
		}
		if len(files) < 5 {
			t.Fatal(files)
		}
		for _, path := range files {
			right, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			written := bytes.IndexFunc(right, func(r rune) bool { return r != 0 })
			for what, wrong := range map[string][]byte{
				"zero":   append(append(bytes.Clone(right[:written]), 0), right[written+1:]...),
				"older":  bytes.Repeat([]byte{1}, len(right)),
				"cut":    right[:len(right)-1],
				"nobody": nil,
			} {
				err := os.WriteFile(path, wrong, 0o644)
				if wrong == nil {
					err = os.Remove(path)
				}
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = w.check()
				if err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("directory %d, %s in %s: %v", which, what, path, err)
				}
				if _, _, err := w.checkCat(); err == nil {
					t.Errorf("directory %d, %s in %s, through a pipe: nothing is said", which, what, path)
				}
			}
			if err := os.WriteFile(path, right, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
