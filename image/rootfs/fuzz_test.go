package rootfs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/image/rootfs"
)

// Any bytes are either refused as invalid or make an image that fsck.erofs
// finds nothing wrong with.
func FuzzWrite(f *testing.F) {
	seed := archive(f, dir("./", 0o711), dir("d", 0o755), file("d/f", strings.Repeat("f", 5000)), hardlink("h", "d/f"), symlink("s", "/x"),
		file("zeros", strings.Repeat("\x00", 9000)+"end"), file("d/f", "again"),
		entry{Typeflag: '0', Name: "attrs", PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": "\x00b", "SCHILY.acl.access": "user::rw-,user:5:r--,group::r--,mask::r--,other::---"}},
		entry{Typeflag: '3', Name: "dev", Devmajor: 1, Devminor: 3})
	f.Add(seed)
	for _, pack := range packers {
		f.Add(pack(f, seed))
	}
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		f.Skip("fsck.erofs is missing")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := os.Create(filepath.Join(t.TempDir(), "image"))
		must(t, err)
		defer out.Close()
		_, err = rootfs.WriteWithin(t.Context(), bytes.NewReader(b), out, nil, 64<<20)
		if err != nil {
			if banger.CodeOf(err) != banger.CodeInvalid {
				t.Fatalf("%s: %v", banger.CodeOf(err), err)
			}
			return
		}
		if report, err := exec.Command(fsck, "--extract", out.Name()).CombinedOutput(); err != nil {
			t.Fatalf("fsck.erofs: %v\n%s", err, report)
		}
	})
}
