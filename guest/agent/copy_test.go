package agent_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/guest"
	"banger/guest/agent"
)

// TestTreeThereAndBack puts what Get took, over streams that break, and
// compares all that is promised to survive.
func TestTreeThereAndBack(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	flaky(c, 400<<10)
	ctx := deadline(t)
	src, dst := t.TempDir()+"/tree", t.TempDir()+"/new/dir"
	write(t, src+"/big", strings.Repeat("0123456789", 200_000), 0o640)
	write(t, src+"/empty", "", 0o400)
	write(t, src+"/sub dir/\n\x01\xff", "odd name", 0o755)
	write(t, src+"/deep/"+strings.Repeat("d/", 60)+strings.Repeat("n", 255), "long", 0o600)
	must(t, os.Chmod(src+"/big", 0o4750|fs.ModeSetuid))
	must(t, os.Link(src+"/big", src+"/big2"))
	must(t, os.Symlink("/dangling/../x", src+"/link"))
	must(t, os.Chtimes(src+"/big", time.Time{}, time.Unix(1234567890, 123456789)))
	must(t, os.Chtimes(src+"/sub dir", time.Time{}, time.Unix(1e9, 0)))
	must(t, os.Chmod(src+"/sub dir", 0o555))
	t.Cleanup(func() { os.Chmod(src+"/sub dir", 0o755); os.Chmod(dst+"/tree/sub dir", 0o755) })

	for range 2 { // the second time everything is replaced
		var archive bytes.Buffer
		must(t, c.Get(ctx, src, &archive))
		must(t, c.Put(ctx, dst, &archive, guest.PutOptions{}))
		if os.Geteuid() != 0 {
			must(t, os.Chmod(dst+"/tree/sub dir", 0o755))
		}
	}
	if os.Geteuid() != 0 {
		must(t, os.Chmod(dst+"/tree/sub dir", 0o555))
		must(t, os.Chtimes(dst+"/tree/sub dir", time.Time{}, time.Unix(1e9, 0)))
	}
	if diff := cmp.Diff(tree(t, src), tree(t, dst+"/tree")); diff != "" {
		t.Error(diff)
	}
	err := c.Get(ctx, src+"/missing", &counting{})
	if guest.CodeOf(err) != guest.CodeNotFound || !strings.Contains(err.Error(), "missing: no such file") {
		t.Errorf("got what isn't there: %v", err)
	}
}

type counting struct{ n int }

func (c *counting) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// tree describes every file below a directory in one line.
func tree(t *testing.T, dir string) (lines []string) {
	t.Helper()
	inodes := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%q %v", rel, info.Mode())
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			must(t, err)
			line += fmt.Sprintf(" %v %d %.20q", info.ModTime().UnixNano(), len(content), content)
			ino := info.Sys().(*syscall.Stat_t).Ino
			if first := inodes[ino]; first != "" {
				line += " = " + first
			} else {
				inodes[ino] = rel
			}
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			must(t, err)
			line += " -> " + target
		case info.IsDir() && rel == "sub dir":
			line += info.ModTime().UTC().String()
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostileArchives: each is refused by the name of its entry, and nothing
// outside of the directory is touched.
func TestHostileArchives(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	for name, headers := range map[string][]tar.Header{
		"dot dot":                {{Name: "../evil", Typeflag: tar.TypeReg}},
		"dot dot inside":         {{Name: "a/../../evil", Typeflag: tar.TypeReg}},
		"absolute":               {{Name: "OUT/evil", Typeflag: tar.TypeReg}},
		"absolute directory":     {{Name: "OUT/evil/", Typeflag: tar.TypeDir}},
		"behind a link":          {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"behind a relative link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../out"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"link onto a victim":     {{Name: "l", Typeflag: tar.TypeLink, Linkname: "OUT/victim"}},
		"link out by dot dot":    {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../out/victim"}},
		"link behind a link":     {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "l", Typeflag: tar.TypeLink, Linkname: "d/victim"}},
		"directory through link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "l/evil/", Typeflag: tar.TypeDir}},
		"device":                 {{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"file as the top":        {{Name: ".", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			out := top + "/out"
			write(t, out+"/victim", "victim", 0o600)
			before := tree(t, out)
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			for _, h := range headers {
				h.Name = strings.Replace(h.Name, "OUT", out, 1)
				h.Linkname = strings.Replace(h.Linkname, "OUT", out, 1)
				h.Mode = 0o777
				must(t, w.WriteHeader(&h))
			}
			must(t, w.Close())
			err := c.Put(deadline(t), top+"/in", &buf, guest.PutOptions{})
			last := headers[len(headers)-1].Name
			if guest.CodeOf(err) != guest.CodeInvalid || !strings.Contains(err.Error(), filepath.Base(last)) {
				t.Errorf("not refused by name: %v", err)
			}
			if diff := cmp.Diff(before, tree(t, out)); diff != "" {
				t.Error(diff)
			}
			if _, err := os.Lstat(top + "/evil"); err == nil {
				t.Error("a file appeared outside")
			}
		})
	}
}

// TestReplacedLink: a link that lies where a file or directory goes is replaced,
// never written through.
func TestReplacedLink(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	top := t.TempDir()
	write(t, top+"/out/file", "victim", 0o600)
	must(t, os.Mkdir(top+"/in", 0o755))
	must(t, os.Symlink(top+"/out/file", top+"/in/file"))
	must(t, os.Symlink(top+"/out", top+"/in/dir"))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(t, w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3}))
	_, err := w.Write([]byte("new"))
	must(t, err)
	must(t, w.WriteHeader(&tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755}))
	must(t, w.WriteHeader(&tar.Header{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o644}))
	must(t, w.Close())
	must(t, c.Put(deadline(t), top+"/in", &buf, guest.PutOptions{}))
	victim, _ := os.ReadFile(top + "/out/file")
	placed, _ := os.ReadFile(top + "/in/file")
	if string(victim) != "victim" || string(placed) != "new" {
		t.Errorf("victim %q, placed %q", victim, placed)
	}
}

func TestTruncatedArchive(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(t, w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3000}))
	_, _ = w.Write(make([]byte, 3000))
	err := c.Put(deadline(t), t.TempDir(), bytes.NewReader(buf.Bytes()[:1000]), guest.PutOptions{})
	if guest.CodeOf(err) != guest.CodeInvalid || !strings.Contains(err.Error(), `"f"`) {
		t.Error(err)
	}
}
