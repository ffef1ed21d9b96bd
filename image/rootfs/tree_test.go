package rootfs_test

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/image/rootfs"
	"banger/test/treetest"
)

// What these tests say often.
var (
	needs      = treetest.Needs
	run        = treetest.Run
	mountImage = treetest.Mount
	snapshot   = treetest.Snapshot
	archive    = treetest.Archive
	file       = treetest.File
	dir        = treetest.Dir
	symlink    = treetest.Symlink
	hardlink   = treetest.Hardlink
)

type entry = treetest.Entry

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
