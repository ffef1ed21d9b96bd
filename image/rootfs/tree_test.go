package rootfs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/image/rootfs"
)

// needs skips a test where the host can't run it.
func needs(t testing.TB, root bool, tools ...string) {
	t.Helper()
	if root && os.Getuid() != 0 {
		t.Skip("must be root: mounts images and extracts devices")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
		if _, err := os.Stat("/dev/loop-control"); err != nil && tool == "mount" {
			t.Skip("no loop devices here, as in most containers: ", err)
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// importTar imports an archive into a store of its own and returns the image's path.
func importTar(t testing.TB, archive io.Reader) string {
	t.Helper()
	store := &rootfs.Store{Dir: filepath.Join(t.TempDir(), "images")}
	img, err := store.Import(t.Context(), archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	path, err := store.Path(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mountImage checks an image and returns where the kernel shows it.
func mountImage(t testing.TB, image string) string {
	t.Helper()
	run(t, "fsck.erofs", "--extract", image) // reads all data too
	dir := t.TempDir()
	run(t, "mount", "-t", "erofs", "-o", "loop,ro", image, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// extract is what the image must equal.
func extract(t testing.TB, archive []byte) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("tar", "-x", "-C", dir, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar -x: %v\n%s", err, out)
	}
	return dir
}

// sameTree imports an archive and compares the mounted image with tar -x.
func sameTree(t *testing.T, archive []byte) {
	t.Helper()
	needs(t, true, "tar", "fsck.erofs", "mount")
	want := snapshot(t, extract(t, archive))
	got := snapshot(t, mountImage(t, importTar(t, bytes.NewReader(archive))))
	if len(want) < 2 {
		t.Fatal("an empty tree proves nothing")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tar -x (-) and image (+) differ:\n%s", diff)
	}
}

// snapshot describes everything below a directory that a program could see,
// by path. The directory's own time is left out unless the archive sets it.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	first := map[uint64]string{} // inode number to its first name, to show hard links
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := path[len(dir):]
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = name
		}
		d := fmt.Sprintf("%o %d:%d links %d", st.Mode, st.Uid, st.Gid, st.Nlink)
		if name != "" {
			d += fmt.Sprintf(" %d.%09d is %q", st.Mtim.Sec, st.Mtim.Nsec, first[st.Ino])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			d += fmt.Sprintf(" %d %x", st.Size, hashFile(t, path))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			d += fmt.Sprintf(" -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			d += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		attrs := xattrsOf(t, path)
		for _, key := range slices.Sorted(maps.Keys(attrs)) {
			d += fmt.Sprintf(" %q=%q", key, attrs[key])
		}
		tree[name] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func hashFile(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

func xattrsOf(t testing.TB, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 1<<17)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<17)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil && !errors.Is(err, unix.ENODATA) {
			t.Fatalf("%q of %q: %v", name, path, err)
		}
		attrs[name] = string(value[:max(n, 0)])
	}
	return attrs
}
