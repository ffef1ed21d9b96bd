package diskfile_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/disk/diskfile"
	"banger/test/disktest"
)

func newDisks(t testing.TB) diskfile.Disks {
	t.Helper()
	return diskfile.Disks{Dir: filepath.Join(t.TempDir(), "templates")}
}

func needTool(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	t.Skipf("%s is missing (Debian: e2fsprogs)", name)
	return ""
}

func TestContract(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (banger.Disks, string) { return newDisks(t), t.TempDir() })
}

func TestFilesystemIsClean(t *testing.T) {
	e2fsck, dumpe2fs := needTool(t, "e2fsck"), needTool(t, "dumpe2fs")
	path, err := newDisks(t).Create(t.Context(), t.TempDir(), 4096)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(e2fsck, "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	out, err := exec.Command(dumpe2fs, "-h", path).CombinedOutput()
	if err != nil {
		t.Fatalf("dumpe2fs: %v\n%s", err, out)
	}
	for _, want := range []string{"meta_bg", "metadata_csum", "64bit", "Total journal size:       16M"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("dumpe2fs doesn't show %q:\n%s", want, out)
		}
	}
	for _, never := range []string{"resize_inode", "orphan_file", "metadata_csum_seed"} {
		if strings.Contains(string(out), never) {
			t.Errorf("the filesystem has %s, which older kernels or growth can't do with", never)
		}
	}
}

// Makers started together share one base, and each gets a whole disk.
func TestManyMakers(t *testing.T) {
	d := newDisks(t)
	root := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		dir := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _, errs[i] = d.Create(t.Context(), dir, 64+i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(root, "0", "disk.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range errs {
		got, err := os.ReadFile(filepath.Join(root, fmt.Sprint(i), "disk.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		if string(got[:len(want)]) != string(want) {
			t.Errorf("disk %d differs from disk 0", i)
		}
	}
}

// What a maker killed at any point left is neither used nor kept.
func TestLeftoversOfADeadMaker(t *testing.T) {
	d := newDisks(t)
	dir := t.TempDir()
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{filepath.Join(dir, "disk.ext4.new"), filepath.Join(d.Dir, "ext4-2-64.img.new")} {
		if err := os.WriteFile(p, []byte(strings.Repeat("half", 1<<20)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, err := d.Create(t.Context(), dir, 128)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path + ".new", filepath.Join(d.Dir, "ext4-2-64.img.new")} {
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Errorf("%s is still there", name)
		}
	}
	if out, err := exec.Command(needTool(t, "e2fsck"), "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, gib := range []int{1, 64} {
		b.Run(fmt.Sprintf("%dGiB", gib), func(b *testing.B) {
			d, dir := newDisks(b), b.TempDir()
			for b.Loop() {
				if _, err := d.Create(b.Context(), dir, gib<<10); err != nil {
					b.Fatal(err)
				}
				if err := d.Remove(b.Context(), dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
