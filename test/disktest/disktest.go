// Package disktest is the contract of banger.Disks as a test suite, to be run on each
// driver and on the fake. It knows nothing of how a driver fulfils it.
package disktest

import (
	"context"
	"errors"
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
		"Attach":             testAttach,
		"AttachNothing":      testAttachNothing,
		"AttachTwo":          testAttachTwo,
		"DetachNothing":      testDetachNothing,
		"Read":               testRead,
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

// id is of the VM whose disk it is.
const id = "0123456789ab"

func attach(t *testing.T, d banger.Disks, id, dir string) (string, banger.Handles) {
	t.Helper()
	path, h, err := d.Attach(t.Context(), id, dir)
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	if !filepath.IsAbs(path) {
		t.Errorf("path %q isn't absolute", path)
	}
	if h != h.Of(banger.DiskHandles) {
		t.Errorf("Attach holds %+v", h)
	}
	return path, h
}

func detach(t *testing.T, d banger.Disks, id, dir string, held banger.Handles) {
	t.Helper()
	if left, err := d.Detach(t.Context(), id, dir, held); err != nil || !left.Empty() {
		t.Fatalf("Detach: %+v, %v", left, err)
	}
}

// attached has f look at the disk as a VMM does.
func attached(t *testing.T, d banger.Disks, dir string, f func(path string)) {
	t.Helper()
	path, h := attach(t, d, id, dir)
	f(path)
	detach(t, d, id, dir, h)
}

// wantDisk holds a disk to its size and its filesystem.
func wantDisk(t *testing.T, d banger.Disks, dir string, sizeMiB int) {
	t.Helper()
	attached(t, d, dir, func(path string) {
		t.Helper()
		wantSize(t, path, sizeMiB)
		wantExt4(t, path)
	})
}

func put(t *testing.T, path, mark string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(mark), at)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func wantMark(t *testing.T, path, mark string, at int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(mark))
	if _, err := f.ReadAt(got, at); err != nil || string(got) != mark {
		t.Errorf("%s reads %q at %d, %v; want %q", filepath.Base(path), got, at, err, mark)
	}
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
	wantDisk(t, d, dir, 1024)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may open the disk: %v", st.Mode())
	}
}

func testCreateTwice(t *testing.T, d banger.Disks, dir string) {
	const mark = "written by the guest"
	path := create(t, d, dir, 256)
	attached(t, d, dir, func(path string) { put(t, path, mark, 200<<20) })
	if again := create(t, d, dir, 512); again != path {
		t.Errorf("the second Create returned %q, the first %q", again, path)
	}
	wantDisk(t, d, dir, 256)
	attached(t, d, dir, func(path string) { wantMark(t, path, mark, 200<<20) })
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
		create(t, d, dir, n)
		wantDisk(t, d, dir, n)
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
	const mark = "kept as it grows"
	create(t, d, dir, 128)
	attached(t, d, dir, func(path string) { put(t, path, mark, 100<<20) })
	if err := d.Grow(t.Context(), dir, 2048); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, d, dir, 2048)
	attached(t, d, dir, func(path string) {
		wantMark(t, path, mark, 100<<20)
		wantMark(t, path, "\x00\x00\x00\x00", 2047<<20)
		// While it is attached, too.
		if err := d.Grow(t.Context(), dir, 4096); err != nil {
			t.Error(err)
		}
		wantMark(t, path, mark, 100<<20)
	})
	wantDisk(t, d, dir, 4096)
	if err := d.Grow(t.Context(), dir, 4096); err != nil {
		t.Errorf("Grow to the same size: %v", err)
	}
	wantCode(t, d.Grow(t.Context(), dir, 4095), banger.CodeInvalid)
	wantCode(t, d.Grow(t.Context(), dir, banger.MaxDiskMiB+1), banger.CodeInvalid)
	wantDisk(t, d, dir, 4096)
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

func testAttach(t *testing.T, d banger.Disks, dir string) {
	create(t, d, dir, 128)
	path, h := attach(t, d, id, dir)
	put(t, path, "of the first run", 64<<20)
	if again, h2 := attach(t, d, id, dir); again != path || h2 != h {
		t.Errorf("attached twice: %q with %+v, the first %q with %+v", again, h2, path, h)
	}
	wantMark(t, path, "of the first run", 64<<20)
	detach(t, d, id, dir, h)
	detach(t, d, id, dir, h)
	attached(t, d, dir, func(path string) { wantMark(t, path, "of the first run", 64<<20) })
	// What was held is lost: the id is enough.
	attach(t, d, id, dir)
	detach(t, d, id, dir, banger.Handles{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := d.Attach(ctx, id, dir); err != nil {
		detach(t, d, id, dir, banger.Handles{})
	}
}

// What a VMM wrote can be read once the disk is detached.
func testRead(t *testing.T, d banger.Disks, dir string) {
	r, ok := d.(banger.DiskReader)
	if !ok {
		t.Skip("not run: these disks can't be read")
	}
	const mark, sizeMiB = "read back", 256
	create(t, d, dir, sizeMiB)
	at := []int64{3<<20 + 5, 199 << 20}
	attached(t, d, dir, func(path string) {
		for _, at := range at {
			put(t, path, mark, at)
		}
	})
	disk, size, done, err := r.Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if size != sizeMiB<<20 {
		t.Errorf("it has %d bytes", size)
	}
	magic := make([]byte, 2)
	if _, err := disk.ReadAt(magic, 1024+0x38); err != nil || string(magic) != "\x53\xEF" {
		t.Errorf("no ext4: %x, %v", magic, err)
	}
	for _, at := range at {
		got := make([]byte, len(mark))
		if _, err := disk.ReadAt(got, at); err != nil || string(got) != mark {
			t.Errorf("at %d: %q, %v", at, got, err)
		}
	}
	if _, err := disk.ReadAt(magic, size-1); err == nil {
		t.Error("there is something beyond its end")
	}
}

func testAttachNothing(t *testing.T, d banger.Disks, dir string) {
	_, _, err := d.Attach(t.Context(), id, dir)
	wantCode(t, err, banger.CodeNotFound)
	detach(t, d, id, dir, banger.Handles{})
	wantEmpty(t, dir)
}

// Two VMs' disks have nothing to do with each other, whatever they share.
func testAttachTwo(t *testing.T, d banger.Disks, dir string) {
	const other = "0123456789ac"
	dirs := map[string]string{id: filepath.Join(dir, id), other: filepath.Join(dir, other)}
	held := map[string]banger.Handles{}
	for id, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		create(t, d, dir, 128)
		var path string
		path, held[id] = attach(t, d, id, dir)
		put(t, path, id, 64<<20)
	}
	detach(t, d, other, dirs[other], held[other])
	path, h := attach(t, d, id, dirs[id])
	if h != held[id] {
		t.Errorf("with the other detached it holds %+v, had %+v", h, held[id])
	}
	wantMark(t, path, id, 64<<20)
	wantExt4(t, path)
	detach(t, d, id, dirs[id], h)
}

func testDetachNothing(t *testing.T, d banger.Disks, dir string) {
	detach(t, d, id, dir, banger.Handles{})
	detach(t, d, id, filepath.Join(dir, "never"), banger.Handles{})
	create(t, d, dir, 128)
	detach(t, d, id, dir, banger.Handles{})
	wantDisk(t, d, dir, 128)
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
