// Package treetest compares filesystem trees by all that a program could see of them,
// makes tars of any entries, and runs the registry that serves them.
package treetest

import (
	"archive/tar"
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
	"time"

	"golang.org/x/sys/unix"
)

// Needs skips a test where the host can't run it.
func Needs(t testing.TB, root bool, tools ...string) {
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

// Run runs a program that must succeed and returns what it writes.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Mount checks an image and returns where the kernel shows it.
func Mount(t testing.TB, image string) string {
	t.Helper()
	Run(t, "fsck.erofs", "--extract", image) // reads all data too
	dir := t.TempDir()
	Run(t, "mount", "-t", "erofs", "-o", "loop,ro", image, dir)
	t.Cleanup(func() { Run(t, "umount", dir) })
	return dir
}

// Snapshot describes everything below a directory that a program could see,
// by path. The directory's own time is left out unless the archive sets it.
func Snapshot(t testing.TB, dir string) map[string]string {
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
	defer func() { _ = f.Close() }()
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

// Entry builds archives by hand; only what matters needs to be set.
type Entry = tar.Header

// Archive is a tar of entries, of 2001 where they say no time.
func Archive(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = time.Unix(1e9, 0)
		}
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = h.Uname // a file's content, for short
			h.Uname, h.Size = "", int64(len(content))
		}
		err := w.WriteHeader(&h)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// File is a regular file with a content.
func File(name, content string) Entry {
	return Entry{Typeflag: tar.TypeReg, Name: name, Uname: content}
}

// Dir is a directory.
func Dir(name string, mode int64) Entry { return Entry{Typeflag: tar.TypeDir, Name: name, Mode: mode} }

// Symlink is a symbolic link.
func Symlink(name, to string) Entry {
	return Entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}

// Hardlink is another name of a file.
func Hardlink(name, to string) Entry {
	return Entry{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}
