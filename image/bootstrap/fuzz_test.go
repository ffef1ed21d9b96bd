package bootstrap

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.36), perl:any | perl-base (<< 6~), x")
	f.Add(" , a ( = 1 ), b|c|")
	f.Fuzz(func(t *testing.T, field string) {
		once, err := relations(field)
		if err != nil {
			return
		}
		var said []string
		for _, g := range once {
			said = append(said, g.String())
		}
		again, err := relations(strings.Join(said, ", "))
		if err != nil || len(again) != len(once) {
			t.Errorf("%q is %q, and then %v, %v", field, said, again, err)
		}
	})
}

func packed(entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(content)), ""
		}
		_ = w.WriteHeader(&h)
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, content)
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// A package's control archive is that package's, or refused, and takes no more than its
// bound.
func FuzzControl(f *testing.F) {
	control := "Package: x\nVersion: 1\nDescription: y\n"
	f.Add(packed(tar.Header{Name: "./control", Typeflag: tar.TypeReg, Linkname: control}, tar.Header{Name: "./conffiles", Typeflag: tar.TypeReg, Linkname: "/etc/x\nremove-on-upgrade /etc/y\n"},
		tar.Header{Name: "triggers", Typeflag: tar.TypeReg, Linkname: "interest-noawait /usr/x # y\n"}))
	f.Add(packed(tar.Header{Name: "../control", Typeflag: tar.TypeReg, Linkname: control}))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := readControl(banger.Package{Name: "x", Version: "1"}, bytes.NewReader(data))
		if err != nil {
			return
		}
		size := 0
		for name, content := range u.members {
			size += len(content)
			if strings.Contains(name, "/") || len(u.members) > maxMembers || size > len(data) {
				t.Errorf("a member %q of %d bytes", name, len(content))
			}
		}
		for _, i := range u.interests() {
			if i.trigger == "" || strings.ContainsAny(i.trigger, " \n") {
				t.Errorf("interest in %q", i.trigger)
			}
		}
	})
}

// What a guest packs as its root becomes a tar whose names are within it, without what
// is each machine's own.
func FuzzTrim(f *testing.F) {
	f.Add(packed(tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./usr/f", Typeflag: tar.TypeReg, Linkname: "content"},
		tar.Header{Name: "etc/machine-id", Typeflag: tar.TypeReg, Linkname: "0123"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "./usr/f"}))
	f.Add(packed(tar.Header{Name: "../x", Typeflag: tar.TypeReg}, tar.Header{Name: "/etc/ssh/ssh_host_rsa_key", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr := trimmer{mounts: []string{"proc"}, dirs: map[string]bool{"usr": true}, date: time.Unix(1_700_000_000, 0)}
		var out bytes.Buffer
		if err := tr.copy(&out, bytes.NewReader(data)); err != nil {
			return
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("what was written can't be read: %v", err)
			}
			name := strings.TrimSuffix(h.Name, "/")
			if !filepath.IsLocal(strings.TrimPrefix(name, "/")) || strings.HasPrefix(name, "etc/ssh/ssh_host_") || h.ModTime.After(tr.date) {
				t.Errorf("%q of %v", h.Name, h.ModTime)
			}
		}
	})
}
