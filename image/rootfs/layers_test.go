package rootfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/image/rootfs"
)

// layersOf makes layers of tars.
func layersOf(tars ...[]byte) (list []rootfs.Layer) {
	for i, b := range tars {
		sum := sha256.Sum256(b)
		list = append(list, rootfs.Layer{
			Name: fmt.Sprintf("layer %d", i+1), DiffID: hex.EncodeToString(sum[:]),
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		})
	}
	return list
}

// flatten writes layers to a file and returns its path.
func flatten(t testing.TB, layers []rootfs.Layer) (string, rootfs.Stats, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer out.Close()
	stats, err := rootfs.WriteLayers(t.Context(), layers, out, nil)
	return out.Name(), stats, err
}

// A whiteout takes away what lower layers have, and nothing of its own layer, wherever in
// the layer it stands: a layer means the same in any order.
func TestWhiteouts(t *testing.T) {
	needs(t, true, "fsck.erofs", "mount")
	lower := []entry{
		dir("d", 0o700), file("d/x", "lower x"), file("d/y", "lower y"), dir("d/e", 0o711), file("d/e/z", "lower z"),
		file("f", "lower f"), symlink("l", "d"), file("g", "lower g"), hardlink("h", "g"),
	}
	for name, c := range map[string]struct {
		upper []entry
		want  []string // names with the content of files
	}{
		"a file":      {[]entry{file(".wh.f", "")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "g=lower g", "h=lower g", "l"}},
		"a directory": {[]entry{file(".wh.d", "")}, []string{"f=lower f", "g=lower g", "h=lower g", "l"}},
		"a directory that is made again": {[]entry{file(".wh.d", ""), dir("d", 0o755), file("d/y", "new")},
			[]string{"d", "d/y=new", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"below what is made again": {[]entry{file(".wh.d", ""), dir("d", 0o755), dir("d/e", 0o755), file("d/e/n", "new")},
			[]string{"d", "d/e", "d/e/n=new", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"all in a directory": {[]entry{dir("d", 0o755), file("d/.wh..wh..opq", ""), file("d/y", "new"), file("d/e/n", "new")},
			[]string{"d", "d/e", "d/e/n=new", "d/y=new", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"all in the root":             {[]entry{file(".wh..wh..opq", ""), file("n", "new")}, []string{"n=new"}},
		"a file of the same layer":    {[]entry{file(".wh.f", ""), file("f", "new")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "f=new", "g=lower g", "h=lower g", "l"}},
		"behind a link":               {[]entry{file("l/.wh.x", ""), file("l/.wh.e", "")}, []string{"d", "d/y=lower y", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"one of two names":            {[]entry{file(".wh.g", "")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "f=lower f", "h=lower g", "l"}},
		"what isn't there":            {[]entry{file(".wh.no", ""), file("no/.wh.no", ""), file("f/.wh.x", ""), file(".wh..wh.aufs", ""), file("f/.wh..wh..opq", "")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"a directory becomes a file":  {[]entry{file("d", "new")}, []string{"d=new", "f=lower f", "g=lower g", "h=lower g", "l"}},
		"a file becomes a directory":  {[]entry{dir("f", 0o755), file("f/n", "new")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "f", "f/n=new", "g=lower g", "h=lower g", "l"}},
		"a link becomes a directory":  {[]entry{dir("l", 0o755), file("l/n", "new")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "f=lower f", "g=lower g", "h=lower g", "l", "l/n=new"}},
		"names that begin with slash": {[]entry{file("/.wh.f", ""), file("//n", "new"), hardlink("/m", "/n")}, []string{"d", "d/e", "d/e/z=lower z", "d/x=lower x", "d/y=lower y", "g=lower g", "h=lower g", "l", "m=new", "n=new"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				image, stats, err := flatten(t, layersOf(archive(t, lower...), archive(t, c.upper...)))
				must(t, err)
				got := listing(t, mountImage(t, image))
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s", diff)
				}
				if stats.Entries != len(c.want) {
					t.Errorf("%d entries are said", stats.Entries)
				}
				if slices.ContainsFunc(c.upper, func(e entry) bool { return e.Typeflag != '0' }) && !slices.ContainsFunc(c.upper, func(e entry) bool { return strings.Contains(e.Name, ".wh.") }) {
					return // a link has to stand behind its target
				}
				slices.SortStableFunc(c.upper, func(a, b entry) int { // whiteouts last
					return strings.Count(a.Name, ".wh.") - strings.Count(b.Name, ".wh.")
				})
			}
		})
	}
}

// listing is all names below a directory, with the contents of files.
func listing(t *testing.T, dir string) (list []string) {
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := path[len(dir)+1:]
		if e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			must(t, err)
			name += "=" + string(b)
		}
		list = append(list, name)
		return nil
	}))
	return list
}

// What a layer took away stays away, whatever later layers make of the name.
func TestNothingComesBack(t *testing.T) {
	needs(t, true, "fsck.erofs", "mount")
	image, _, err := flatten(t, layersOf(
		archive(t, dir("a", 0o755), dir("a/b", 0o755), file("a/b/c", "1")),
		archive(t, file("a", "a file")),
		archive(t, dir("a", 0o755)),
		archive(t, dir("a/b", 0o755)),
		archive(t, file("a/.wh.b", "")),
		archive(t, file("a/b/d", "6")),
	))
	must(t, err)
	if diff := cmp.Diff([]string{"a", "a/b", "a/b/d=6"}, listing(t, mountImage(t, image))); diff != "" {
		t.Error(diff)
	}
}

// What can't be in an image is refused, and the error says in which layer.
func TestRefusedInLayers(t *testing.T) {
	below := archive(t, dir("d", 0o755), file("f", "f"), symlink("out", "../../.."))
	for want, upper := range map[string][]entry{
		`layer 2: entry "../x" leads out`:                        {file("../x", "")},
		`layer 2: entry "a/../../x" leads out`:                   {file("a/../../x", "")},
		`layer 2: entry "h" is a hard link to "/../etc/shadow"`:  {hardlink("h", "/../etc/shadow")},
		`layer 2: entry "h" is a hard link to "no", which isn't`: {hardlink("h", "no")},
		`layer 2: entry "f/x" lies below "f"`:                    {file("f/x", "")},
		`layer 2: entry "d/.wh." hides a name`:                   {file("d/.wh.", "")},
		`layer 2: entry "d/.wh..." hides a name`:                 {file("d/.wh...", "")},
		`layer 2: entry "n" would replace a directory`:           {file("n/x", ""), file("n", "")},
	} {
		_, _, err := flatten(t, layersOf(below, archive(t, upper...)))
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	// A link that leads out of the root leads to the root.
	image, _, err := flatten(t, layersOf(below, archive(t, file("out/x", "inside"))))
	must(t, err)
	needs(t, true, "fsck.erofs", "mount")
	if got := listing(t, mountImage(t, image)); !slices.Contains(got, "x=inside") {
		t.Errorf("%q", got)
	}
}

// A layer's content is checked to its last byte.
func TestDiffIDs(t *testing.T) {
	good := archive(t, file("f", "f"))
	layers := layersOf(good)
	for name, content := range map[string][]byte{"cut off": good[:512], "another": archive(t, file("f", "g")), "with more behind it": append(good[:len(good):len(good)], make([]byte, 512)...)} {
		layers[0].Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
		if _, _, err := flatten(t, layers); banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, rootfs.MaxLayers + 1} {
		if _, _, err := flatten(t, make([]rootfs.Layer, n)); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "it can have 1 to 1000") {
			t.Errorf("%d layers: %v", n, err)
		}
	}
	if _, _, err := flatten(t, layersOf(good, bytes.Repeat([]byte("x"), 9000))); !strings.Contains(fmt.Sprint(err), "not a whole layer 2") {
		t.Errorf("no tar: %v", err)
	}
}

// One id means the same bytes on every host: whoever changes these raises Version.
func TestBytesOfVersion(t *testing.T) {
	image, _, err := flatten(t, layersOf(
		archive(t, dir("./", 0o755), dir("d", 0o700), file("d/f", strings.Repeat("data", 5000)), file("g", "gone"), symlink("s", "d")),
		archive(t, file(".wh.g", ""), file("zeros", strings.Repeat("\x00", 9000)+"end"), hardlink("h", "d/f"), file("new/f", "x")),
	))
	must(t, err)
	b, err := os.ReadFile(image)
	must(t, err)
	const want = "1 eba85666cf615a321c3e21405c05cabfb7cd8b00f52c5ade5ccd62a628486772"
	if got := fmt.Sprintf("%d %x", rootfs.Version, sha256.Sum256(b)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Any bytes as layers are refused as invalid, or make an image that fsck.erofs finds
// nothing wrong with.
func FuzzLayers(f *testing.F) {
	f.Add(archive(f, dir("d", 0o755), file("d/f", "f"), file("d/g", "g"), hardlink("h", "d/f"), symlink("s", "d")),
		archive(f, file("d/.wh.f", ""), file(".wh.h", ""), dir("s", 0o755), file("d/.wh..wh..opq", ""), file("d/n", "n")),
		archive(f, file("d", "d"), file("/x/y", "y"), file(".wh.x", "")))
	f.Add([]byte{}, []byte{}, []byte{})
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		f.Skip("fsck.erofs is missing")
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		image, _, err := flatten(t, layersOf(a, b, c))
		if err != nil {
			if banger.CodeOf(err) != banger.CodeInvalid {
				t.Fatalf("%s: %v", banger.CodeOf(err), err)
			}
			return
		}
		if report, err := exec.Command(fsck, "--extract", image).CombinedOutput(); err != nil {
			t.Fatalf("fsck.erofs: %v\n%s", err, report)
		}
	})
}
