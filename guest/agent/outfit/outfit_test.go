package outfit_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/guest/agent/outfit"
	"banger/test/treetest"
)

// What an image has in a directory of the disk's own is copied there once, with all that a
// program sees of it; an interrupted copy is begun anew, a finished one is left alone.
func TestCopyUp(t *testing.T) {
	treetest.Needs(t, true, "setfattr")
	image, disk := t.TempDir(), t.TempDir()
	from, to := filepath.Join(image, "docker"), filepath.Join(disk, "data/docker")
	if err := errors.Join(os.MkdirAll(from, 0o711), os.MkdirAll(to+".new/half", 0o700)); err != nil {
		t.Fatal(err)
	}
	treetest.Run(t, "sh", "-ec", `cd "$1"; mkdir -p a/b; echo x > a/f; ln a/f a/g; ln -s /etc/passwd a/l; mknod a/whiteout c 0 0; mkfifo a/p; chown 5:6 a/f; chmod 4755 a/f
		setfattr -n trusted.overlay.opaque -v y a/b; setfattr -n user.x -v y a/f; truncate -s 1M a/sparse; touch -d @1000000000 a/b a; chmod 700 a`, "sh", from)
	if err := copyUp(t, from, to); err != nil {
		t.Fatal(err)
	}
	want := treetest.Snapshot(t, from)
	if diff := cmp.Diff(want, treetest.Snapshot(t, to)); diff != "" || len(want) != 9 {
		t.Errorf("%d names; the image (-) and the disk (+) differ:\n%s", len(want), diff)
	}
	if err := errors.Join(os.Remove(to+"/a/f"), copyUp(t, from, to)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(to + "/a/f"); err == nil {
		t.Error("what was deleted came back")
	}
	if err := outfit.CopyUp(-1, filepath.Join(disk, "data/none")); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(filepath.Join(disk, "data")); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

func copyUp(t *testing.T, from, to string) error {
	t.Helper()
	fd, err := unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	return outfit.CopyUp(fd, to)
}
