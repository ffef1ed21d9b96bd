package debian_test

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"banger/fetch/debian"
	"banger/test/archivetest"
)

func TestStanzas(t *testing.T) {
	const text = "\n# a comment\nPackage: one\nDescription: short\n long,\n\ttabbed \nDepends:\n a,\n# between\n b\nno colon\n goes nowhere\nSHA256:x\r\n\n \n\nPackage: two"
	want := []map[string]string{
		{"Package": "one", "Description": "short\nlong,\ntabbed", "Depends": "\na,\nb", "SHA256": "x"},
		{"Package": "two"},
	}
	var got []map[string]string
	if err := debian.Stanzas(strings.NewReader(text), func(s map[string]string) error {
		got = append(got, maps.Clone(s))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || !maps.Equal(got[0], want[0]) || !maps.Equal(got[1], want[1]) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if first := debian.Stanza(text); !maps.Equal(first, want[0]) {
		t.Errorf("the first is %q", first)
	}
	if err := debian.Stanzas(strings.NewReader(strings.Repeat("x", 2<<20)), nil); err == nil {
		t.Error("a line without an end was read")
	}
}

func FuzzStanzas(f *testing.F) {
	f.Add("Package: a\nFilename: pool/x\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n\nPackage: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = debian.Stanzas(strings.NewReader(text), func(s map[string]string) error {
			if file, err := debian.PackageFile(s); err == nil && !filepath.IsLocal(file.Path) {
				t.Errorf("package outside the mirror: %q", file.Path)
			}
			return nil
		})
	})
}

func FuzzDeb(f *testing.F) {
	pack := archivetest.Deb{Name: "x", Version: "1", Files: []tar.Header{{Name: "./f"}}, Content: map[string]string{"./f": "content"}}
	f.Add(archivetest.New(f, pack).File(archivetest.Pool(pack)))
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, open := range []func() (io.Reader, error){
			func() (io.Reader, error) {
				return debian.Control(t.Context(), bytes.NewReader(data), int64(len(data)))
			},
			func() (io.Reader, error) {
				return debian.Data(t.Context(), bytes.NewReader(data), int64(len(data)))
			},
		} {
			if r, err := open(); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			}
		}
	})
}
