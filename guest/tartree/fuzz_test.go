package tartree_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/guest/tartree"
)

// Whatever a guest packs, nothing beside the directory changes, no more is written than
// came, and what was unpacked is packed and unpacked again as it is.
func FuzzForeign(f *testing.F) {
	f.Add(archive(f, dir("d"), file("d/f", "content"), symlink("d/s", "../../beside"), file("d/s/x", "y"), link("d/h", "d/f"), file("../beside/f", "z")).Bytes())
	f.Add(archive(f, file("/beside/f", "z"), symlink("s", "/"), file("s/f", "z"), entry{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}).Bytes())
	f.Add(archive(f, entry{tar.Header{Name: "s", Mode: 0o6777, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "GNU.sparse.major": "1"}}, "set-uid"}).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		write(t, filepath.Join(top, "beside"), "untouched")
		to, again := filepath.Join(top, "to"), filepath.Join(top, "again")
		must(t, os.Mkdir(to, 0o755))
		must(t, os.Mkdir(again, 0o755))
		unpacked := tartree.Unpack(bytes.NewReader(data), tartree.Place{Dir: to, Foreign: true})
		if names, err := os.ReadDir(top); err != nil || len(names) != 3 || read(filepath.Join(top, "beside")) != "untouched" {
			t.Fatalf("beside the directory: %v, %v", names, err)
		}
		var written int64
		must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("%s runs as its owner", path)
			}
			written += info.Size()
			return err
		}))
		if written > int64(len(data)) {
			t.Errorf("%d bytes became %d", len(data), written)
		}
		if unpacked != nil {
			return
		}
		var first, second bytes.Buffer
		must(t, tartree.Pack(&first, to+"/."))
		want := headers(t, first.Bytes())
		must(t, tartree.Unpack(&first, tartree.Place{Dir: again, Foreign: true}))
		must(t, tartree.Pack(&second, again+"/."))
		if diff := cmp.Diff(want, headers(t, second.Bytes())); diff != "" {
			t.Errorf("packed and unpacked again (-before +after):\n%s", diff)
		}
	})
}

// headers tells what is in a tar, without the times of reading and changing, and those
// of the top, which is there before.
func headers(t *testing.T, data []byte) (all []string) {
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		if h.Name == "./" {
			h.ModTime = time.Time{}
		}
		all = append(all, fmt.Sprintf("%q %c %o %v %q %x", h.Name, h.Typeflag, h.Mode, h.ModTime, h.Linkname, sha256.Sum256(content)))
	}
}
