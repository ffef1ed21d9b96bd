package tartree_test

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest/tartree"
)

// A name that nobody could open, or that takes a minute to make, is refused.
func TestLongNames(t *testing.T) {
	for what, name := range map[string]string{
		"deep": strings.Repeat("d/", 4000) + "f",
		"long": strings.Repeat(strings.Repeat("n", 200)+"/", 30) + "f",
	} {
		for _, foreign := range []bool{false, true} {
			for _, e := range []entry{{Header: tar.Header{Name: name}}, {Header: tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: name}}} {
				dir := t.TempDir()
				err := tartree.Unpack(archive(t, e), tartree.Place{Dir: dir, Foreign: foreign, Keep: foreign})
				if err == nil || !strings.Contains(err.Error(), "too long") {
					t.Errorf("%s: %.200v", what, err)
				}
				if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
					t.Errorf("%s: %v was made, %v", what, made, err)
				}
			}
		}
	}
}

// Files in deep trees cost no more than their depth, those in one directory
// nothing of it.
func TestDeepTreesAreQuick(t *testing.T) {
	var entries []entry
	deep := strings.Repeat("d/", 200)
	for i := range 300 {
		entries = append(entries, entry{Header: tar.Header{Name: fmt.Sprintf("%sx%d/f", deep, i)}, content: "x"})
	}
	dir := t.TempDir()
	began := time.Now()
	if err := tartree.Unpack(archive(t, entries...), tartree.Place{Dir: dir, Foreign: true, Keep: true}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("300 files 200 directories deep took %v", took)
	}
	if got := read(dir + "/" + deep + "x299/f"); got != "x" {
		t.Errorf("the last one holds %q", got)
	}
}

// A FIFO doesn't fail the copy of what is beside it. It is copied within a guest, and
// left out where a guest sends it.
func TestFIFO(t *testing.T) {
	src := t.TempDir() + "/src"
	write(t, src+"/file", "x")
	must(t, unix.Mkfifo(src+"/pipe", 0o640))
	for _, foreign := range []bool{false, true} {
		r, w := io.Pipe()
		go func() { _ = w.CloseWithError(tartree.Pack(w, src)) }()
		dir := t.TempDir()
		must(t, tartree.Unpack(r, tartree.Place{Dir: dir, Foreign: foreign, Keep: foreign}))
		if got := read(dir + "/src/file"); got != "x" {
			t.Errorf("the file beside it holds %q", got)
		}
		st, err := os.Lstat(dir + "/src/pipe")
		if foreign != os.IsNotExist(err) || !foreign && st.Mode().Type() != fs.ModeNamedPipe {
			t.Errorf("foreign %v: %v, %v", foreign, st, err)
		}
	}
}

// What a guest sends gets no permission that the umask takes.
func TestForeignUmask(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the umask goes with the thread
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		t.Skip(err)
	}
	unix.Umask(0o027)
	want := fs.FileMode(0o750)
	dir := t.TempDir()
	must(t, tartree.Unpack(archive(t, entry{Header: tar.Header{Name: "f", Mode: 0o777}}, entry{Header: tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o777}}),
		tartree.Place{Dir: dir, Foreign: true, Keep: true}))
	for _, name := range []string{"f", "d"} {
		if st, err := os.Stat(dir + "/" + name); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s is %v, %v", name, st.Mode(), err)
		}
	}
}

// A guest that sends without end doesn't fill the filesystem up.
func TestForeignLeavesRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small filesystem")
	}
	runtime.LockOSThread() // never unlocked: the mounts go with the thread
	dir := t.TempDir()
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		_ = tw.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 40})
		_, err := io.Copy(tw, endless{})
		_ = w.CloseWithError(err)
	}()
	err := tartree.Unpack(r, tartree.Place{Dir: dir, Foreign: true, Keep: true})
	_ = r.Close()
	if err == nil || !strings.Contains(err.Error(), "MiB left") {
		t.Errorf("it ended by %v", err)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if free := int64(st.Bavail) * st.Bsize; free < 64<<20 { // the file was taken back
		t.Errorf("%d MiB are left", free>>20)
	}
	must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 97<<20), 0o600))
	if err := tartree.Unpack(archive(t, entry{Header: tar.Header{Name: "g"}}), tartree.Place{Dir: dir, Foreign: true, Keep: true}); err == nil {
		t.Error("a full filesystem takes more")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
