package oci_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/image/oci"
	"banger/image/rootfs"
	"banger/test/treetest"
)

type entry = treetest.Entry

var (
	file     = treetest.File
	dir      = treetest.Dir
	symlink  = treetest.Symlink
	hardlink = treetest.Hardlink
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB) *oci.Store {
	return &oci.Store{Store: &rootfs.Store{Dir: filepath.Join(t.TempDir(), "images")}}
}

// umoci makes an OCI layout of layers with the real tool, and returns its directory.
func umoci(t testing.TB, layers ...[]entry) string {
	t.Helper()
	treetest.Needs(t, true, "umoci")
	layout := filepath.Join(t.TempDir(), "layout")
	treetest.Run(t, "umoci", "init", "--layout", layout)
	treetest.Run(t, "umoci", "new", "--image", layout+":latest")
	for _, l := range layers {
		path := filepath.Join(t.TempDir(), "layer.tar")
		must(t, os.WriteFile(path, treetest.Archive(t, l...), 0o600))
		treetest.Run(t, "umoci", "raw", "add-layer", "--image", layout+":latest", path)
	}
	return layout
}

// importFile imports an archive and returns the image.
func importFile(t testing.TB, s *oci.Store, path string) (banger.Image, error) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	return s.Import(t.Context(), f, nil)
}

// archives packs a layout in forms in which images are kept in files: all, or those.
func archives(t testing.TB, layout string, those ...string) map[string]string {
	t.Helper()
	treetest.Needs(t, false, "skopeo", "tar", "gzip", "zstd")
	base := t.TempDir()
	list := map[string]string{}
	for form, to := range map[string]string{"oci": "oci-archive", "docker": "docker-archive"} {
		if those != nil && !slices.Contains(those, form) {
			continue
		}
		path := filepath.Join(base, form+".tar")
		treetest.Run(t, "skopeo", "copy", "-q", "oci:"+layout+":latest", to+":"+path+":example/image:latest")
		list[form] = path
	}
	list["layout"] = filepath.Join(base, "layout.tar")
	treetest.Run(t, "tar", "-C", layout, "-cf", list["layout"], ".")
	if those != nil {
		return list
	}
	treetest.Run(t, "sh", "-c", `gzip -k "$1" && zstd -q "$1"`, "-", list["docker"])
	list["docker.gz"], list["docker.zst"] = list["docker"]+".gz", list["docker"]+".zst"
	return list
}

// sameAsUmoci compares the image of layers with what umoci unpacks as root.
func sameAsUmoci(t *testing.T, layout string) banger.Image {
	t.Helper()
	treetest.Needs(t, true, "umoci", "fsck.erofs", "mount")
	bundle := filepath.Join(t.TempDir(), "bundle")
	treetest.Run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	want := treetest.Snapshot(t, filepath.Join(bundle, "rootfs"))
	s := newStore(t)
	var img banger.Image
	for form, path := range archives(t, layout, "layout", "docker") {
		made, err := importFile(t, s, path)
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if img.ID != "" && made.ID != img.ID {
			t.Errorf("%s: another image, %s and %s", form, made.ID, img.ID)
		}
		img = made
	}
	path, err := s.Path(img.ID)
	must(t, err)
	got := treetest.Snapshot(t, treetest.Mount(t, path))
	if len(want) < 2 || len(want) != img.Entries+1 {
		t.Errorf("umoci has %d names, the image says %d", len(want)-1, img.Entries)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("umoci (-) and image (+) differ:\n%s", diff)
	}
	return img
}

// capability is CAP_NET_RAW as security.capability has it.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// Whatever layers can say, an image has it as umoci unpacks it.
func TestEqualsUmoci(t *testing.T) {
	root := dir("./", 0o755)
	many := [][]entry{{root}}
	layers := 100
	if testing.Short() {
		layers = 20 // umoci takes its time for each
	}
	for i := range layers {
		layer := []entry{file(fmt.Sprintf("f%d", i), fmt.Sprint("of layer ", i)), file("changes", fmt.Sprint(i))}
		if i%3 == 2 {
			layer = append(layer, file(fmt.Sprintf(".wh.f%d", i-1), ""))
		}
		many = append(many, layer)
	}
	attrs := func(e entry, set map[string]string) entry {
		e.PAXRecords = map[string]string{}
		for name, value := range set {
			e.PAXRecords["SCHILY.xattr."+name] = value
		}
		return e
	}
	for name, layers := range map[string][][]entry{
		"hard links over layers": {
			{root, file("a", "a"), hardlink("b", "a"), hardlink("c", "a")},
			{hardlink("d", "b"), file("c", "another")},
			{file(".wh.a", ""), hardlink("e", "d")},
		},
		"a directory that is made again": {
			{root, dir("d", 0o700), file("d/x", "x"), file("d/y", "y")},
			{file(".wh.d", ""), dir("d", 0o755), file("d/y", "new")},
		},
		"opaque": {
			{root, dir("d", 0o700), file("d/x", "x"), dir("d/e", 0o755), file("d/e/f", "f")},
			{dir("d", 0o711), file("d/.wh..wh..opq", ""), file("d/n", "n")},
			{dir("d", 0o711), file("d/m", "m")},
		},
		"types change": {
			{root, file("a", "file"), dir("b", 0o755), file("b/x", "x"), symlink("c", "b")},
			{dir("a", 0o755), file("a/x", "x"), file("b", "file"), dir("c", 0o755), file("c/y", "y")},
			{file("a", "file again"), dir("b", 0o755), symlink("c", "a")},
		},
		"symlinked parents": {
			{root, dir("usr", 0o755), dir("usr/lib", 0o755), symlink("lib", "usr/lib"), symlink("abs", "/usr/lib"), symlink("up", "../../../usr/lib")},
			{file("lib/x.so", "x"), file("abs/y.so", "y"), file("up/z.so", "z")},
			{file("lib/.wh.x.so", ""), file("abs/y.so", "new")},
		},
		"owners, modes, times": {
			{root, {Typeflag: '0', Name: "su", Mode: 0o6755, Uid: 1, Gid: 2}, {Typeflag: '5', Name: "sticky", Mode: 0o1777, Uid: 4000000000, Gid: 3},
				{Typeflag: '2', Name: "link", Linkname: "no", Uid: 7, Gid: 8}},
			{{Typeflag: '5', Name: "sticky", Mode: 0o3700, Uid: 5}},
		},
		"devices": {
			{root, dir("dev", 0o755), {Typeflag: '3', Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, {Typeflag: '4', Name: "dev/disk", Mode: 0o660, Devmajor: 259, Devminor: 300000}, {Typeflag: '6', Name: "dev/fifo", Mode: 0o600}},
		},
		"attributes": {
			{root, attrs(file("ping", "ping"), map[string]string{"security.capability": capability, "user.a": "a\x00b"}), attrs(dir("d", 0o755), map[string]string{"user.d": "d", "trusted.t": "t"})},
			{attrs(file("ping", "new"), map[string]string{"user.b": "b"}), dir("d", 0o755)},
		},
		"names": {
			{root, file("new\nline", "1"), file("bad\xff\xfeutf8\xc3", "2"), file(strings.Repeat("n", 255), "3"), file(strings.Repeat("\xe4", 255), "4"), file("-rf", "5"), file(" ", "6"), file("back\\slash", "7"), file("..x", "8"), file(".whx", "9")},
			{file(".wh.new\nline", ""), file(".wh.bad\xff\xfeutf8\xc3", ""), file("bad\xff", "10")},
		},
		"many layers": many,
		"a file, a directory, a file": {
			{root, file("x", "1")}, {file(".wh.x", ""), dir("x", 0o755), file("x/y", "2")}, {file(".wh.x", ""), file("x", "3")}, {file(".wh.x", ""), dir("x", 0o700)},
		},
		"large": {
			{root, file("large", strings.Repeat("large", 1<<20)), file("zeros", strings.Repeat("\x00", 1<<20)+"end"+strings.Repeat("\x00", 12345))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sameAsUmoci(t, umoci(t, layers...))
		})
	}
}

// A tree that umoci packed and changed, as tools that build images do.
func TestEqualsUmociRepacked(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	treetest.Needs(t, true, "umoci", "busybox", "setcap", "setfacl", "truncate")
	layout := umoci(t, []entry{dir("./", 0o755)})
	for _, change := range []string{
		`mkdir -p bin etc usr/lib dev && ln -s usr/lib lib && cp $(command -v busybox) bin/ && for p in sh cat ls; do ln bin/busybox bin/$p; done
		 echo root:x:0:0::/root:/bin/sh >etc/passwd; setcap cap_net_raw+ep bin/busybox; mknod dev/null c 1 3; truncate -s 50M etc/sparse; echo end >>etc/sparse
		 setfacl -m u:5:rw etc/passwd; for i in $(seq 2000); do echo $i >usr/lib/lib$i.so; done; chown 33:33 etc; chmod 4755 bin/cat`,
		`rm bin/ls; rm -r usr/lib && mkdir usr/lib && echo new >lib/lib7.so; echo more >>etc/passwd; rm etc/sparse`,
		`rm -r etc && echo file >etc && rm lib && mkdir lib && touch lib/x`,
	} {
		bundle := filepath.Join(t.TempDir(), "bundle")
		treetest.Run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
		treetest.Run(t, "sh", "-ec", `cd "$1/rootfs"; eval "$2"`, "-", bundle, change)
		treetest.Run(t, "umoci", "repack", "--image", layout+":latest", bundle)
		sameAsUmoci(t, layout)
	}
}

// The config says how an image is run, and is what was given to the tool that made it.
func TestConfig(t *testing.T) {
	layout := umoci(t, []entry{file("f", "f")})
	treetest.Run(t, "umoci", "config", "--image", layout+":latest", "--config.entrypoint", "/bin/sh", "--config.entrypoint", "-c", "--config.cmd", "id",
		"--config.env", "A=b=c", "--config.workingdir", "/srv", "--config.user", "web:www", "--config.exposedports", "80/tcp", "--config.volume", "/data",
		"--config.stopsignal", "SIGQUIT", "--config.label", "a=b")
	for form, path := range archives(t, layout) {
		img, err := importFile(t, newStore(t), path)
		must(t, err)
		c := *img.Config
		if form == "oci" || form == "layout" {
			if !strings.HasPrefix(c.Digest, "sha256:") {
				t.Errorf("%s: digest %q", form, c.Digest)
			}
		}
		if len(c.DiffIDs) != 1 {
			t.Errorf("%s: layers %q", form, c.DiffIDs)
		}
		if !strings.Contains(string(c.Raw), "www") || (c.Manifest == nil) != strings.HasPrefix(form, "docker") {
			t.Errorf("%s: config %q and manifest %q aren't kept", form, c.Raw, c.Manifest)
		}
		c.Digest, c.DiffIDs, c.Raw, c.Manifest = "", nil, nil, nil
		want := banger.ImageConfig{
			Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"id"}, Env: []string{"A=b=c"}, WorkDir: "/srv", User: "web:www",
			Exposed: []string{"80/tcp"}, Volumes: []string{"/data"}, StopSignal: "SIGQUIT", Labels: map[string]string{"a": "b"}, Platform: "linux/amd64",
		}
		c.Env = slices.DeleteFunc(c.Env, func(e string) bool {
			return strings.HasPrefix(e, "PATH=") || strings.HasPrefix(e, "HOME=") || strings.HasPrefix(e, "TERM=")
		})
		if diff := cmp.Diff(want, c); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
	}
}

// A root tar isn't taken for an archive of an image.
func TestRootTar(t *testing.T) {
	for _, b := range [][]byte{
		treetest.Archive(t, dir("./", 0o755), dir("bin", 0o755), file("manifest.json", "of a program's own"), file("oci-layout", "")),
		treetest.Archive(t, file("hello", "distroless")),
	} {
		img, err := newStore(t).Import(t.Context(), bytes.NewReader(b), nil)
		if err != nil || img.Config != nil {
			t.Errorf("%+v, %v", img, err)
		}
	}
}
