package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

// Whatever an archive holds, two programs come out of it at most, and nothing else
// changes.
func FuzzUnpack(f *testing.F) {
	pack := func(names ...string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			_ = w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o755, Size: 2})
			_, _ = w.Write([]byte("#!"))
		}
		_ = w.Close()
		return b.Bytes()
	}
	suffix := "-" + Version + "-" + arch
	f.Add(pack("release"+suffix+"/firecracker"+suffix, "./release"+suffix+"/jailer"+suffix, "../x"))
	f.Add(pack("/firecracker" + suffix))
	f.Fuzz(func(t *testing.T, archive []byte) { // what a gzip holds: to fuzz its checksum would find nothing
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(archive)
		_ = w.Close()
		top := t.TempDir()
		err := unpack(&z, filepath.Join(top, "to"))
		beside, rerr := os.ReadDir(top)
		programs, perr := os.ReadDir(filepath.Join(top, "to"))
		if rerr != nil || perr != nil || len(beside) != 1 || err == nil && len(programs) != 2 {
			t.Errorf("%v, %v, %v; %v, %v", beside, programs, err, rerr, perr)
		}
		for _, p := range programs {
			if p.Name() != "firecracker" && p.Name() != "jailer" {
				t.Errorf("%s was written", p.Name())
			}
		}
	})
}
