// Package disktest holds every promise of banger.Disks as a test suite, to be
// run on each driver and on the fake. It owns the promises' wording in code and
// refuses to know how any driver keeps them.
package disktest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger"
)

// Run holds a driver to the contract. open returns a driver and an empty
// directory of one VM, both fresh.
func Run(t *testing.T, open func(t *testing.T) (disks banger.Disks, dir string)) {
	for name, f := range map[string]func(*testing.T, banger.Disks, string){
		"Create":             testCreate,
		"CreateTwice":        testCreateTwice,
		"CreateOutOfBounds":  testCreateOutOfBounds,
		"CreateCanceled":     testCreateCanceled,
		"CreateSizes":        testCreateSizes,
		"CreateHasFewBlocks": testCreateHasFewBlocks,
		"Grow":               testGrow,
		"GrowNothing":        testGrowNothing,
		"Remove":             testRemove,
		"RemoveNothing":      testRemoveNothing,
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := open(t)
			f(t, d, dir)
		})
	}
}

func create(t *testing.T, d banger.Disks, dir string, sizeMiB int) string {
	t.Helper()
	path, err := d.Create(t.Context(), dir, sizeMiB)
	if err != nil {
		t.Fatalf("Create(%d MiB): %v", sizeMiB, err)
	}
	return path
}

// sizeOf returns the size a guest would see, for files and block devices.
func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantSize(t *testing.T, path string, sizeMiB int) {
	t.Helper()
	if got, want := sizeOf(t, path), int64(sizeMiB)<<20; got != want {
		t.Errorf("%s has %d bytes, want %d", filepath.Base(path), got, want)
	}
}

func wantCode(t *testing.T, err error, want banger.Code) {
	t.Helper()
	if got := banger.CodeOf(err); got != want {
		t.Errorf("error %v has code %q, want %q", err, got, want)
	}
}

// wantExt4 looks for the magic at byte 56 of the superblock at 1024
// (Documentation/filesystems/ext4/super.rst).
func wantExt4(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var magic [2]byte
	if _, err := f.ReadAt(magic[:], 1024+56); err != nil {
		t.Fatal(err)
	}
	if magic != [2]byte{0x53, 0xEF} {
		t.Errorf("no ext4 superblock: magic %x", magic)
	}
}

func testCreate(t *testing.T, d banger.Disks, dir string) {
	path := create(t, d, dir, 1024)
	if !filepath.IsAbs(path) {
		t.Errorf("path %q isn't absolute", path)
	}
	wantSize(t, path, 1024)
	wantExt4(t, path)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may open the disk: %v", st.Mode())
	}
}

func testCreateTwice(t *testing.T, d banger.Disks, dir string) {
	path := create(t, d, dir, 256)
	mark := []byte("written by the guest")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(mark, 200<<20); err != nil {
		t.Fatal(err)
	}
	if again := create(t, d, dir, 512); again != path {
		t.Errorf("the second Create returned %q, the first %q", again, path)
	}
	wantSize(t, path, 256)
	got := make([]byte, len(mark))
	if _, err := f.ReadAt(got, 200<<20); err != nil || string(got) != string(mark) {
		t.Errorf("the second Create changed the disk: read %q, %v", got, err)
	}
}

func testCreateOutOfBounds(t *testing.T, d banger.Disks, dir string) {
	for _, n := range []int{-1, 0, banger.MinDiskMiB - 1, banger.MaxDiskMiB + 1} {
		_, err := d.Create(t.Context(), dir, n)
		wantCode(t, err, banger.CodeInvalid)
	}
	wantEmpty(t, dir)
}

func testCreateCanceled(t *testing.T, d banger.Disks, dir string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Create(ctx, dir, 256); err == nil {
		t.Error("Create succeeded though its context had ended")
	}
	wantEmpty(t, dir)
}

func testCreateSizes(t *testing.T, d banger.Disks, dir string) {
	for _, n := range []int{banger.MinDiskMiB, 65, 1 << 20} {
		path := create(t, d, dir, n)
		wantSize(t, path, n)
		wantExt4(t, path)
		if err := d.Remove(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
}

func testCreateHasFewBlocks(t *testing.T, d banger.Disks, dir string) {
	st, err := os.Stat(create(t, d, dir, 64<<10))
	if err != nil {
		t.Fatal(err)
	}
	if !st.Mode().IsRegular() {
		t.Skip("not a file: its blocks can't be counted")
	}
	if n := blocks(st) * 512; n > 8<<20 {
		t.Errorf("a fresh disk of 64 GiB occupies %d bytes", n)
	}
}

func testGrow(t *testing.T, d banger.Disks, dir string) {
	path := create(t, d, dir, 128)
	if err := d.Grow(t.Context(), dir, 2048); err != nil {
		t.Fatal(err)
	}
	wantSize(t, path, 2048)
	wantExt4(t, path)
	if err := d.Grow(t.Context(), dir, 2048); err != nil {
		t.Errorf("Grow to the same size: %v", err)
	}
	wantCode(t, d.Grow(t.Context(), dir, 2047), banger.CodeInvalid)
	wantCode(t, d.Grow(t.Context(), dir, banger.MaxDiskMiB+1), banger.CodeInvalid)
	wantSize(t, path, 2048)
}

func testGrowNothing(t *testing.T, d banger.Disks, dir string) {
	wantCode(t, d.Grow(t.Context(), dir, 2048), banger.CodeNotFound)
	wantEmpty(t, dir)
}

func testRemove(t *testing.T, d banger.Disks, dir string) {
	beside := filepath.Join(dir, "beside")
	if err := os.WriteFile(beside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := create(t, d, dir, 128)
	for range 2 {
		if err := d.Remove(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the disk is still there: %v", err)
		}
	}
	if _, err := os.Stat(beside); err != nil {
		t.Errorf("Remove took more than the disk: %v", err)
	}
}

func testRemoveNothing(t *testing.T, d banger.Disks, dir string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Remove(ctx, dir); err != nil {
		t.Error(err)
	}
	if err := d.Remove(ctx, filepath.Join(dir, "never")); err != nil {
		t.Error(err)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s was left behind", e.Name())
	}
}
