package dmsnap_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/disk/diskfile"
	"banger/disk/dmsnap"
	"banger/test/disktest"
)

const (
	id    = "0123456789ab"
	other = "0123456789ac"
)

// newDisks returns a driver with a state directory of its own.
func newDisks(t *testing.T) (d *dmsnap.Disks, state string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: device-mapper and loops need root")
	}
	state = t.TempDir()
	return &dmsnap.Disks{
		Base: diskfile.Disks{Dir: filepath.Join(state, "disks")}, Dir: filepath.Join(state, "base"), Owner: state,
	}, state
}

// mapped is newDisks where there is a device-mapper, which tests leave as it was.
func mapped(t *testing.T) (d *dmsnap.Disks, state string) {
	t.Helper()
	d, state = newDisks(t)
	if f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0); err != nil {
		t.Skip("not run: this kernel has no device-mapper: ", err)
	} else {
		_ = f.Close()
	}
	before := nodes(t)
	t.Cleanup(func() {
		eventually(t, "the devices there were", func() bool { return slices.Equal(before, nodes(t)) })
	})
	return d, state
}

// nodes lists device-mapper nodes and bound loops.
func nodes(t *testing.T) []string {
	t.Helper()
	dm, err := filepath.Glob("/sys/block/dm-*/dm/name")
	must(t, err)
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(t, err)
	return append(dm, loops...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDir(t *testing.T, state, id string) string {
	t.Helper()
	dir := filepath.Join(state, "vms", id)
	must(t, os.MkdirAll(dir, 0o700))
	return dir
}

// fresh is a driver with a disk of 128 MiB.
func fresh(t *testing.T) (d *dmsnap.Disks, dir string) {
	t.Helper()
	d, state := mapped(t)
	dir = newDir(t, state, id)
	_, err := d.Create(t.Context(), dir, 128)
	must(t, err)
	t.Cleanup(func() {
		if left, err := d.Detach(context.Background(), id, dir, banger.Handles{}); err != nil || !left.Empty() {
			t.Errorf("at the end: %+v, %v", left, err)
		}
	})
	return d, dir
}

func attach(t *testing.T, d *dmsnap.Disks, dir string) (string, banger.Handles) {
	t.Helper()
	path, h, err := d.Attach(t.Context(), id, dir)
	must(t, err)
	return path, h
}

func detach(t *testing.T, d *dmsnap.Disks, dir string, held banger.Handles) {
	t.Helper()
	if left, err := d.Detach(t.Context(), id, dir, held); err != nil || !left.Empty() {
		t.Fatalf("Detach: %+v, %v", left, err)
	}
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func wantCode(t *testing.T, err error, want banger.Code) {
	t.Helper()
	if got := banger.CodeOf(err); got != want {
		t.Errorf("error %v has code %q, want %q", err, got, want)
	}
}

func TestContract(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (banger.Disks, string) {
		d, state := mapped(t)
		dir := filepath.Join(state, "vm") // nothing in it
		must(t, os.Mkdir(dir, 0o700))
		return d, dir
	})
}

// The size of the file says the disk's, and the file takes all that can be written.
func TestSizes(t *testing.T) {
	for size, want := range map[int]int64{64: (1 + 257*65) * 4096, 1024: (1 + 257*1025) * 4096} {
		if got := dmsnap.CowSize(size); got != want {
			t.Errorf("%d MiB: %d bytes, want %d", size, got, want)
		}
	}
	d, state := newDisks(t)
	dir := newDir(t, state, id)
	path, err := d.Create(t.Context(), dir, 1024)
	must(t, err)
	st, err := os.Stat(path)
	must(t, err)
	if st.Size() != dmsnap.CowSize(1024) {
		t.Errorf("the file has %d bytes", st.Size())
	}
	must(t, os.Truncate(path, st.Size()-4096))
	_, _, err = d.Attach(t.Context(), id, dir)
	wantCode(t, err, banger.CodeConflict)
	wantCode(t, d.Grow(t.Context(), dir, 2048), banger.CodeConflict)
}

// Every disk has the base by a name of its own, so that it outlives whatever
// becomes of the base's.
func TestBaseIsLinked(t *testing.T) {
	d, state := newDisks(t)
	base := ""
	for _, id := range []string{id, other} {
		dir := newDir(t, state, id)
		must(t, os.WriteFile(filepath.Join(dir, "disk.base"), []byte("a dead maker's"), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "disk.cow.new"), []byte("a dead maker's"), 0o600))
		_, err := d.Create(t.Context(), dir, 128)
		must(t, err)
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) != 2 {
			t.Errorf("there are %v", entries)
		}
		st, err := os.Stat(filepath.Join(dir, "disk.base"))
		must(t, err)
		if st.Mode() != 0o400 {
			t.Errorf("the base has the mode %v", st.Mode())
		}
		paths, err := filepath.Glob(filepath.Join(d.Dir, "*"))
		must(t, err)
		base = paths[0]
		if first, err := os.Stat(base); err != nil || len(paths) != 1 || !os.SameFile(first, st) {
			t.Errorf("the base is another file than %q: %v", paths, err)
		}
	}
	// On another filesystem it can't be.
	elsewhere, err := os.MkdirTemp("/dev/shm", "banger-dmsnap-test")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(elsewhere)) })
	_, err = d.Create(t.Context(), elsewhere, 128)
	wantCode(t, err, banger.CodeInvalid)
	if !strings.Contains(err.Error(), "two filesystems") {
		t.Errorf("it says %v", err)
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A loop goes when nobody has it open: a death leaves none.
func TestLoopGoesWithItsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not run: loops need root")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(1<<20))
	label := "banger-fedcba987654-" + filepath.Base(t.TempDir())
	path, release, err := dmsnap.Bind(f, label)
	if errors.Is(err, unix.ENOENT) || banger.CodeOf(err) == banger.CodeUnavailable {
		t.Skip("not run: ", err)
	}
	must(t, err)
	if got, err := dmsnap.Loops(label); err != nil || !slices.Equal(got, []string{path}) {
		t.Errorf("loops: %q, %v", got, err)
	}
	must(t, release())
	eventually(t, "the loop to go", func() bool {
		got, err := dmsnap.Loops(label)
		must(t, err)
		return len(got) == 0
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not seen", what)
		}
	}
}

func TestMend(t *testing.T) {
	head := func(valid byte, magic string) []byte {
		b := append([]byte(magic), valid, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0)
		return append(b, make([]byte, 4096-len(b))...)
	}
	for name, c := range map[string]struct {
		is, want []byte
		mended   bool
		code     banger.Code
	}{
		"new":      {make([]byte, 4096), make([]byte, 4096), false, ""},
		"valid":    {head(1, "SnAp"), head(1, "SnAp"), false, ""},
		"invalid":  {head(0, "SnAp"), head(1, "SnAp"), true, ""},
		"no store": {head(0, "bad!"), head(0, "bad!"), false, banger.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cow")
			must(t, os.WriteFile(path, c.is, 0o600))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			mended, err := dmsnap.Mend(f)
			if mended != c.mended || (err == nil) != (c.code == "") {
				t.Errorf("mended %v, %v", mended, err)
			}
			if err != nil {
				wantCode(t, err, c.code)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != string(c.want) {
				t.Errorf("the file isn't as it should be: %v", err)
			}
		})
	}
}
