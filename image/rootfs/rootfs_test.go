package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Whatever a filesystem can hold, packed by tar in each of its formats, is in
// the image as tar -x would leave it.
func TestImageEqualsExtractedTree(t *testing.T) {
	needs(t, true, "tar", "fsck.erofs", "mount", "setcap", "setfacl")
	src := t.TempDir()
	seedTree(t, src)
	pack := func(args ...string) func(t *testing.T) {
		return func(t *testing.T) {
			var archive, problems bytes.Buffer
			cmd := exec.Command("tar", append([]string{"-c", "-C", src, "--numeric-owner"}, args...)...)
			cmd.Stdout, cmd.Stderr = &archive, &problems
			if err := cmd.Run(); err != nil {
				t.Fatalf("tar -c: %v\n%s", err, problems.String())
			}
			sameTree(t, archive.Bytes())
		}
	}
	t.Run("pax", pack("--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "."))
	for _, version := range []string{"0.0", "0.1", "1.0"} {
		t.Run("pax sparse "+version, pack("--format=pax", "-S", "--sparse-version="+version, "--xattrs", "--xattrs-include=*", "--acls", "."))
	}
	t.Run("gnu", pack("--format=gnu", "."))
	t.Run("gnu sparse", pack("--format=gnu", "-S", "."))
}

// seedTree makes one of everything.
func seedTree(t *testing.T, dir string) {
	t.Helper()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	for i, name := range []string{
		"new\nline", "quote'\"`$(x)", "back\\slash\\n", "ctl\x01\x1b[31m\x7f", "bad\xff\xfeutf8\xc3", "-rf", " ", "!", "..x", "%3D=",
		strings.Repeat("n", 255), strings.Repeat("\xe4", 255), strings.Repeat("d", 200) + "/" + strings.Repeat("e", 255),
	} {
		file("names/"+name, fmt.Sprint(i))
	}
	for i := range 600 { // several directory blocks
		file(fmt.Sprintf("many/%d-%s", i, strings.Repeat("x", i%50)), "")
	}
	for _, n := range []int{0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193, 1<<20 + 5} {
		file(fmt.Sprintf("sizes/%d", n), strings.Repeat("data", n/4+1)[:n])
	}
	sparse := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err, f.Truncate(size))
		for _, off := range at {
			_, err := f.WriteAt([]byte("here"), off)
			must(t, err)
		}
		must(t, f.Close())
	}
	must(t, os.Mkdir(filepath.Join(dir, "sparse"), 0o700))
	sparse("sparse/hole", 1<<24+3)
	sparse("sparse/head", 1<<20, 0)
	sparse("sparse/tail", 1<<20+100, 1<<20+96)
	sparse("sparse/mid", 1<<22, 4095, 1<<20, 3<<20)
	var many []int64
	for i := range int64(50) {
		many = append(many, i*16384)
	}
	sparse("sparse/many", 1<<20, many...)

	linked := file("links/a", "shared")
	must(t, os.Link(linked, filepath.Join(dir, "links/b")), os.Link(linked, filepath.Join(dir, "names/c")),
		os.Symlink("/etc/passwd", filepath.Join(dir, "links/absolute")), os.Symlink("nowhere/../at\nall", filepath.Join(dir, "links/dangling")),
		os.Symlink(strings.Repeat("t/", 2000), filepath.Join(dir, "links/long")), os.Symlink("../../../..", filepath.Join(dir, "links/up")),
		os.Link(filepath.Join(dir, "links/up"), filepath.Join(dir, "links/up2")))

	must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o1777),
		unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(filepath.Join(dir, "dev/big"), unix.S_IFBLK|0o660, int(unix.Mkdev(4095, 1048575))),
		unix.Mknod(filepath.Join(dir, "dev/white"), unix.S_IFCHR, 0),
		unix.Mkfifo(filepath.Join(dir, "dev/fifo"), 0o622))

	for i, mode := range []uint32{0o4755, 0o2755, 0o1777, 0, 0o7777} {
		path := file(fmt.Sprintf("modes/%o", mode), "")
		must(t, unix.Chown(path, 1000+i, 4_000_000_000), unix.Chmod(path, mode))
	}
	capable := file("attrs/capable", "x")
	run(t, "setcap", "cap_net_raw,cap_net_admin+ep", capable)
	acl := file("attrs/acl", "x")
	run(t, "setfacl", "-m", "u:1234:rw,u:7:x,g:55:r,m::rx", acl)
	run(t, "setfacl", "-m", "u:1:r", "-d", "-m", "u:77:rwx,g:3:-", filepath.Join(dir, "attrs"))
	fat := file("attrs/fat", strings.Repeat("y", 5000))
	must(t, unix.Setxattr(fat, "user.empty", nil, 0), unix.Setxattr(fat, "user.a=b%c%3D", []byte("\x00\xff\n"), 0),
		unix.Setxattr(fat, "trusted.big", bytes.Repeat([]byte("v"), 3000), 0),
		unix.Setxattr(fat, "security.own", []byte("s"), 0),
		unix.Lsetxattr(filepath.Join(dir, "links/dangling"), "trusted.link", []byte("l"), 0),
		unix.Setxattr(dir, "user.root", []byte("r"), 0))
	old := unix.NsecToTimespec(-1_500_000_000)
	late := unix.NsecToTimespec(time.Date(2100, 1, 2, 3, 4, 5, 123456789, time.UTC).UnixNano())
	for name, ts := range map[string]unix.Timespec{"modes/0": old, "modes/7777": late, "links/dangling": late, "dev": late, "dev/null": late} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// An archive that says something twice means what tar -x makes of it.
func TestLaterEntriesWin(t *testing.T) {
	for name, entries := range map[string][]entry{
		"file twice":              {file("a", "one"), file("a", "two two")},
		"names cleaned":           {dir("./", 0o711), file(".//a/./b", "x"), dir("a/", 0o700), dir("a", 0o750)},
		"directory twice":         {dir("d", 0o755), file("d/f", "x"), dir("d", 0o700), file("d/g", "y")},
		"file over symlink":       {file("t", "target"), symlink("l", "t"), file("l", "own")},
		"symlink over file":       {file("a", "x"), symlink("a", "/nowhere")},
		"file over empty dir":     {dir("d", 0o755), file("d", "x")},
		"empty dir, dir, file":    {dir("d", 0o755), file("d", "x"), dir("d", 0o711), file("d/e", "y")},
		"dir over file":           {file("a", "x"), dir("a", 0o700), file("a/b", "y")},
		"dir over symlink":        {dir("r", 0o755), symlink("a", "r"), dir("a", 0o700), file("a/b", "y")},
		"one of a group replaced": {file("a", "x"), hardlink("b", "a"), hardlink("c", "./b"), file("b", "new"), file("a", "newer")},
		"last of a group goes":    {file("a", "x"), hardlink("b", "a"), symlink("a", "b"), symlink("b", "a")},
		"link onto itself":        {file("a", "x"), hardlink("a", "a")},
		"link over another":       {file("a", "x"), file("b", "y"), hardlink("b", "a")},
		"link to a symlink":       {symlink("s", "nowhere"), hardlink("h", "s")},
		"fifo, device":            {{Typeflag: tar.TypeFifo, Name: "p"}, {Typeflag: tar.TypeChar, Name: "p", Devmajor: 5, Devminor: 300}},
		"acl as text": {dir("d", 0o755), {Typeflag: tar.TypeReg, Name: "f", Uname: "x", Mode: 0o640, PAXRecords: map[string]string{
			"SCHILY.acl.access": "user::rw-,user:root:r-x:0,group::r--,group:5:rw-\t#effective:r--\nmask::r--,other::---"}}},
		"acl that is a mode": {{Typeflag: tar.TypeReg, Name: "f", Mode: 0o640, PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-\ngroup::r--\nother::---\n"}}},
	} {
		t.Run(name, func(t *testing.T) { sameTree(t, archive(t, entries...)) })
	}
}

// A parent that no entry describes belongs to root, with mode 0755.
func TestMissingParents(t *testing.T) {
	needs(t, true, "fsck.erofs", "mount")
	m := mountImage(t, importTar(t, bytes.NewReader(archive(t, file("a/b/c", "x")))))
	for _, name := range []string{"", "/a", "/a/b"} {
		if got := snapshot(t, m)[name]; !strings.HasPrefix(got, "40755 0:0 ") {
			t.Errorf("%q: %s", name, got)
		}
	}
}
