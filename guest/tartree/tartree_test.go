package tartree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/guest/tartree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(path string) string {
	content, _ := os.ReadFile(path)
	return string(content)
}

// entry is a header with content: a file, unless it says otherwise.
type entry struct {
	tar.Header
	content string
}

func archive(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.content))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, e.content)
		must(t, err)
	}
	must(t, w.Close())
	return &buf
}

func file(name, content string) entry { return entry{tar.Header{Name: name}, content} }
func dir(name string) entry           { return entry{tar.Header{Name: name + "/", Typeflag: tar.TypeDir}, ""} }
func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}
func link(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

// TestForeign: who asked for "out" gets nothing but that below a directory of
// theirs, whatever else comes.
func TestForeign(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		want    string // in the error; empty: none
	}{
		"what was asked for":      {[]entry{dir("out"), file("out/a", "a"), symlink("out/l", "../.profile"), link("out/b", "out/a")}, ""},
		"without its parents":     {[]entry{file("out/deep/er/a", "a")}, ""},
		"another name":            {[]entry{file(".profile", "evil")}, `".profile": it isn't part of out`},
		"another name's file":     {[]entry{file("hooks/pre-commit", "evil")}, "it isn't part of out"},
		"the top":                 {[]entry{dir(".")}, "it isn't part of out"},
		"through a link":          {[]entry{symlink("out", "hooks"), file("out/pre-commit", "evil")}, "out is no directory"},
		"through a link below":    {[]entry{dir("out"), symlink("out/l", "../hooks"), file("out/l/pre-commit", "evil")}, "out/l is no directory"},
		"deep through a link":     {[]entry{dir("out"), symlink("out/l", "../hooks"), file("out/l/a/b", "evil")}, "out/l/a"},
		"a directory by a link":   {[]entry{dir("out"), symlink("out/l", "../hooks"), dir("out/l/x")}, "out/l is no directory"},
		"a link made a directory": {[]entry{dir("out"), symlink("out/l", "../hooks"), dir("out/l")}, "no directory is in its place"},
		"a link to a victim":      {[]entry{dir("out"), link("out/l", ".profile"), file("out/l", "evil")}, `link to ".profile": it isn't part of out`},
		"a link through a link":   {[]entry{dir("out"), symlink("out/l", "../hooks"), link("out/p", "out/l/pre-commit")}, "out/l is no directory"},
		"holes": {[]entry{{tar.Header{Name: "out", Format: tar.FormatPAX, PAXRecords: map[string]string{
			"GXX.sparse.major": "1", "GXX.sparse.minor": "0", "GXX.sparse.name": "out", "GXX.sparse.realsize": "1073741824",
		}}, "0\n" + strings.Repeat("\x00", 510)}}, "sparse"},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			write(t, home+"/.profile", "mine")
			write(t, home+"/hooks/pre-commit", "mine")
			place, err := tartree.At(home, "out")
			must(t, err)
			place.Foreign = true
			err = tartree.Unpack(hollow(archive(t, c.entries...)), place)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if read(home+"/.profile") != "mine" || read(home+"/hooks/pre-commit") != "mine" {
				t.Error("a victim was written to")
			}
			found, err := os.ReadDir(home)
			must(t, err)
			for _, e := range found {
				if e.Name() != ".profile" && e.Name() != "hooks" && e.Name() != "out" {
					t.Errorf("there is %s now", e.Name())
				}
			}
			if hooks, _ := os.ReadDir(home + "/hooks"); len(hooks) != 1 {
				t.Errorf("hooks has %v now", hooks)
			}
		})
	}
}

// hollow has package tar read keys that it doesn't write.
func hollow(r *bytes.Buffer) io.Reader {
	return bytes.NewReader(bytes.ReplaceAll(r.Bytes(), []byte("GXX.sparse"), []byte("GNU.sparse")))
}

// What comes from elsewhere runs as nobody but who runs it.
func TestForeignModes(t *testing.T) {
	for foreign, want := range map[bool]fs.FileMode{true: 0o755, false: 0o755 | fs.ModeSetuid | fs.ModeSetgid} {
		top := t.TempDir()
		e := file("f", "")
		e.Mode = 0o6755
		must(t, tartree.Unpack(archive(t, e), tartree.Place{Dir: top, Foreign: foreign}))
		if st, err := os.Stat(top + "/f"); err != nil || st.Mode() != want {
			t.Errorf("foreign %v: %v, %v; want %v", foreign, st.Mode(), err, want)
		}
	}
}

// TestAt: cp's rule, in each case.
func TestAt(t *testing.T) {
	top := t.TempDir()
	write(t, top+"/file", "old")
	must(t, os.Mkdir(top+"/dir", 0o755))
	must(t, os.Symlink("dir", top+"/link"))
	for _, c := range []struct {
		dest, name string
		want       string // where the tree's "x" is then; an error begins with "!"
	}{
		{"dir", "n", "dir/n/x"},
		{"dir/", "n", "dir/n/x"},
		{"link", "n", "dir/n/x"},
		{"new", "n", "new/x"},
		{"dir/new", "n", "dir/new/x"},
		{"dir", ".", "dir/x"},
		{"made", ".", "made/x"},
		{"new/", "n", "!there is no directory"},
		{"file/", "n", "!not a directory"},
		{"file/new", "n", "!not a directory"},
		{"nosuch/new", "n", "!there is no directory"},
		{"file", ".", "!is no directory"},
		{"file", "n", "!no directory is in its place"},
	} {
		place, err := tartree.At(filepath.Join(top, c.dest)+c.dest[len(strings.TrimRight(c.dest, "/")):], c.name)
		if err == nil {
			err = tartree.Unpack(archive(t, dir(c.name), file(c.name+"/x", "new")), place)
		}
		if message, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), message) {
				t.Errorf("%s to %s: %v; want %s", c.name, c.dest, err, message)
			}
		} else if err != nil || read(filepath.Join(top, c.want)) != "new" {
			t.Errorf("%s to %s: %v, no %s", c.name, c.dest, err, c.want)
		}
		_ = os.RemoveAll(top + "/new")
	}
	if read(top+"/file") != "old" {
		t.Error("the file was replaced")
	}
}

// TestKeep: a directory that was there stays as it was, and no file takes its place.
func TestKeep(t *testing.T) {
	top := t.TempDir()
	must(t, os.Mkdir(top+"/n", 0o700))
	place, err := tartree.At(top, "n")
	must(t, err)
	must(t, tartree.Unpack(archive(t, dir("n"), file("n/x", "x")), place))
	if st, err := os.Stat(top + "/n"); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := tartree.Unpack(archive(t, file("n", "x")), place); err == nil || !strings.Contains(err.Error(), "a directory is in its place") {
		t.Errorf("%v", err)
	}
}

// TestWholeOrOld: a file whose new content breaks off is the old one.
func TestWholeOrOld(t *testing.T) {
	top := t.TempDir()
	write(t, top+"/n", "old")
	must(t, os.Link(top+"/n", top+"/same"))
	place, err := tartree.At(top+"/n", "n")
	must(t, err)
	broken := errors.New("broken")
	cut := io.MultiReader(bytes.NewReader(archive(t, file("n", strings.Repeat("new", 1000))).Bytes()[:2000]), failing{broken})
	if err := tartree.Unpack(cut, place); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if read(top+"/n") != "old" {
		t.Errorf("the old file is %.10q", read(top+"/n"))
	}
	// A link to what has that name already.
	must(t, tartree.Unpack(archive(t, link("same", "n")), tartree.Place{Dir: top}))
	if left, _ := os.ReadDir(top); len(left) != 2 {
		t.Errorf("there are %v", left)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestName(t *testing.T) {
	for path, want := range map[string]string{
		"a": "a", "a/b": "b", "a/b/": "b", "/": ".", ".": ".", "..": ".", "a/..": ".", "a/.": ".", "/a/./b": "b",
	} {
		if got := tartree.Name(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestRefused: by anybody, for whatever place.
func TestRefused(t *testing.T) {
	for want, entries := range map[string][]entry{
		"not a name below the directory":    {file("../x", "")},
		"only a directory can be the top":   {file(".", "")},
		"can't be unpacked":                 {{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}},
		`link to "/etc/passwd": not a name`: {link("l", "/etc/passwd")},
		"no such file":                      {link("l", "nosuch")},
	} {
		top := t.TempDir()
		err := tartree.Unpack(archive(t, entries...), tartree.Place{Dir: top + "/"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
		if left, _ := os.ReadDir(top); len(left) != 0 {
			t.Errorf("%s: there are %v", want, left)
		}
	}
}

// A file that says it is longer than it is, as one that shrinks does.
func TestShrunk(t *testing.T) {
	const name = "/sys/kernel/uevent_seqnum"
	if st, err := os.Stat(name); err != nil || st.Size() < 100 {
		t.Skipf("no such file here: %v", err)
	}
	if err := tartree.Pack(io.Discard, name); err == nil || !strings.Contains(err.Error(), name+" shrank") {
		t.Errorf("%v", err)
	}
}
