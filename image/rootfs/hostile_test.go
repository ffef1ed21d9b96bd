package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
	"banger/image/rootfs"
)

// refused imports an archive that must be refused for an entry, and sees that
// nothing is left.
func refused(t *testing.T, archive io.Reader, entry string) {
	t.Helper()
	store := &rootfs.Store{Dir: filepath.Join(t.TempDir(), "images")}
	img, err := store.Import(t.Context(), archive, nil)
	if banger.CodeOf(err) != banger.CodeInvalid {
		t.Fatalf("made %+v, error %v: want %s", img, err, banger.CodeInvalid)
	}
	if !strings.Contains(err.Error(), entry) {
		t.Errorf("error doesn't name %s: %v", entry, err)
	}
	left, err := os.ReadDir(store.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	attr := func(key, value string) entry {
		return entry{Typeflag: tar.TypeReg, Name: "bad", PAXRecords: map[string]string{key: value}}
	}
	long := strings.Repeat("x", 256)
	for name, entries := range map[string][]entry{
		"parent":                   {file("../bad", "x")},
		"parent within":            {file("a/../bad", "x")},
		"parent at the end":        {dir("bad/..", 0o755)},
		"absolute":                 {file("/bad", "x")},
		"behind links in a circle": {symlink("l", "m"), symlink("m", "l"), file("l/bad", "x")},
		"behind a link to itself":  {symlink("l", "l/l/l"), file("l/bad", "x")},
		"behind a link to a file":  {file("f", "x"), symlink("l", "f"), file("l/bad", "x")},
		"behind a long name":       {symlink("l", long), file("l/bad", "x")},
		"behind a long link":       {symlink("l", strings.Repeat("y", 4090)), file("l/bad", "x")},
		"behind a longer way":      {symlink("l", "d"+strings.Repeat("/.", 1900)), symlink("m", strings.Repeat("l/../", 800)+"l"), file(strings.Repeat("m/", 10)+"bad", "x")},
		"below a file":             {file("f", "x"), file("f/bad", "x")},
		"link to absolute":         {hardlink("bad", "/etc/passwd")},
		"link out":                 {file("a", "x"), hardlink("bad", "../a")},
		"link to later":            {hardlink("a", "a")},
		"link to nothing":          {hardlink("bad", "never")},
		"link to a directory":      {dir("d", 0o755), hardlink("bad", "d")},
		"link to the root":         {hardlink("bad", ".")},
		"link behind a dead link":  {symlink("l", "d"), hardlink("bad", "l/f")},
		"link below a file":        {file("f", "x"), hardlink("bad", "f/g")},
		"file over full dir":       {file("bad/x", "x"), file("bad", "y")},
		"root as a link":           {symlink("./.", "bad")},
		"name too long":            {file("bad"+long, "x")},
		"path too long":            {file("bad"+strings.Repeat("/x", 2100), "x")},
		"target too long":          {symlink("bad", strings.Repeat("x", 4096))},
		"target empty":             {symlink("bad", "")},
		"device of no kernel":      {{Typeflag: tar.TypeBlock, Name: "bad", Devmajor: 4096}},
		"owner nobody has":         {{Typeflag: tar.TypeReg, Name: "bad", Uid: 1<<32 - 1}},
		"type unknown":             {{Typeflag: 'M', Name: "bad"}},
		"acl of another version":   {attr("SCHILY.xattr.system.posix_acl_access", "\x01\x00\x00\x00")},
		"acl without an owner":     {attr("SCHILY.acl.access", "user:1:rwx\nmask::rwx")},
		"acl with a foreign name":  {attr("SCHILY.acl.access", "user::rw-,user:lisa:rwx,group::r--,mask::rwx,other::r--")},
		"acl of nonsense":          {attr("SCHILY.acl.access", "everybody::rwx")},
		"attribute name long":      {attr("SCHILY.xattr.user."+long, "x")},
		"attribute value long":     {attr("SCHILY.xattr.user.a", strings.Repeat("x", 65536))},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, bytes.NewReader(archive(t, entries...)), strconv.Quote(entries[len(entries)-1].Name))
		})
	}
}

// A stream that unpacks to more than there is room for ends before running guests
// have none.
func TestLeavesRoom(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer func() { _ = out.Close() }()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	w := tar.NewWriter(z)
	h := file("bomb", "")
	h.Size = 100 << 20
	must(t, w.WriteHeader(&h))
	for range 100 {
		_, err := w.Write(bytes.Repeat([]byte("bomb"), 1<<18))
		must(t, err)
	}
	must(t, w.Close(), z.Close())
	full, asked := errors.New("the disk is full now"), 0
	_, err = rootfs.WriteAsking(t.Context(), &bomb, out, func(f *os.File) error {
		if asked++; asked == 4 {
			return full
		}
		return rootfs.Limits{}.Room(f)
	})
	info, serr := out.Stat()
	must(t, serr)
	if have, ferr := hostfs.Free(out); ferr == nil && have < rootfs.LeaveMiB {
		t.Skipf("%d MiB are free here", have)
	}
	if !errors.Is(err, full) || info.Size() < 40<<20 || info.Size() > 60<<20 {
		t.Errorf("%v after %d bytes", err, info.Size())
	}
	must(t, out.Truncate(0))
	small, err := os.Open("/proc/self/stat") // of a filesystem without any room
	must(t, err)
	defer func() { _ = small.Close() }()
	if err := (rootfs.Limits{}).Room(small); banger.CodeOf(err) != banger.CodeUnavailable || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("no room at all: %v", err)
	}
}

// Archives of whole images look like tars of roots, and would make one of a handful
// of files.
func TestImageArchives(t *testing.T) {
	for name, entries := range map[string][]entry{
		"docker save": {file("0123.json", "{}"), dir("4567", 0o755), file("4567/layer.tar", "x"), file("manifest.json", "[]"), file("repositories", "{}")},
		"oci layout":  {dir("blobs/sha256", 0o755), file("blobs/sha256/01", "x"), file("index.json", "{}"), file("oci-layout", "{}")},
	} {
		store := &rootfs.Store{Dir: t.TempDir()}
		_, err := store.Import(t.Context(), bytes.NewReader(archive(t, entries...)), nil)
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "layers") {
			t.Errorf("%s: %v", name, err)
		}
	}
	root := archive(t, dir("bin", 0o755), file("manifest.json", "of a program's own"), file("oci-layout", ""))
	importTar(t, bytes.NewReader(root))
}

// countdown is a context that ends when it was asked so many times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Holes are read from nowhere: that takes time, too, and must end when told to.
func TestCancelInAHole(t *testing.T) {
	needs(t, false, "tar")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "hole"), nil, 0o600), os.Truncate(filepath.Join(dir, "hole"), 20<<30))
	sparse, err := exec.CommandContext(t.Context(), "tar", "-cS", "-C", dir, "hole").Output()
	must(t, err)
	out, err := os.Create(filepath.Join(dir, "image"))
	must(t, err)
	defer func() { _ = out.Close() }()
	_, err = rootfs.Write(&countdown{t.Context(), 100}, bytes.NewReader(sparse), out, nil)
	if banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("the whole hole was read: %v", err)
	}
}

// A way through links leads to where it would in the image, and never out of it.
func TestBehindLinks(t *testing.T) {
	for name, c := range map[string]struct{ links, plain []entry }{
		"merged":    {[]entry{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("lib/x.so", "x")}, []entry{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("usr/lib/x.so", "x")}},
		"absolute":  {[]entry{dir("d", 0o755), symlink("l", "/d"), file("l/f", "x")}, []entry{dir("d", 0o755), symlink("l", "/d"), file("d/f", "x")}},
		"out":       {[]entry{symlink("a/l", "../../../../etc"), file("a/l/passwd", "x")}, []entry{symlink("a/l", "../../../../etc"), file("etc/passwd", "x")}},
		"a host's":  {[]entry{symlink("l", "/tmp"), file("l/f", "x")}, []entry{symlink("l", "/tmp"), file("tmp/f", "x")}},
		"itself":    {[]entry{symlink("l", "."), dir("l/a/b", 0o755)}, []entry{symlink("l", "."), dir("a/b", 0o755)}},
		"of links":  {[]entry{dir("c/d", 0o755), symlink("b", "c"), symlink("a", "./b//"), file("a/d/f", "x")}, []entry{dir("c/d", 0o755), symlink("b", "c"), symlink("a", "./b//"), file("c/d/f", "x")}},
		"hard link": {[]entry{file("d/f", "x"), symlink("l", "d"), hardlink("h", "l/f"), hardlink("l/g", "d/f")}, []entry{file("d/f", "x"), symlink("l", "d"), hardlink("h", "d/f"), hardlink("d/g", "d/f")}},
		"xattrs": {[]entry{dir("d", 0o755), {Typeflag: tar.TypeSymlink, Name: "l", Linkname: "d", PAXRecords: map[string]string{"SCHILY.xattr.trusted.a": "value"}}, file("l/f", "x")},
			[]entry{dir("d", 0o755), {Typeflag: tar.TypeSymlink, Name: "l", Linkname: "d", PAXRecords: map[string]string{"SCHILY.xattr.trusted.a": "value"}}, file("d/f", "x")}},
		"replaced": {[]entry{dir("d", 0o755), symlink("l", "d"), dir("l", 0o755), file("l/f", "x")}, []entry{dir("d", 0o755), symlink("l", "d"), dir("l", 0o755), file("./l/f", "x")}},
	} {
		store := &rootfs.Store{Dir: t.TempDir()}
		got, err := store.Import(t.Context(), bytes.NewReader(archive(t, c.links...)), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := store.Import(t.Context(), bytes.NewReader(archive(t, c.plain...)), nil)
		must(t, err)
		if got.ID != want.ID {
			t.Errorf("%s: not the same image as by the plain way", name)
		}
	}
}

func TestGlobalHeaders(t *testing.T) {
	global := func(key string) []byte {
		return archive(t, entry{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{key: "1"}}, file("a", "x"))
	}
	importTar(t, bytes.NewReader(global("comment")))
	refused(t, bytes.NewReader(global("uid")), `"uid"`)
}

// An archive cut off anywhere before the end of its end mark is refused, however packed.
func TestTruncated(t *testing.T) {
	whole := archive(t, dir("d", 0o755), file("d/one", strings.Repeat("1", 700)), symlink("s", strings.Repeat("long", 40)), file("last", "x"))
	for n := 0; n < len(whole); n += 64 {
		refused(t, bytes.NewReader(whole[:n]), "")
	}
	refused(t, bytes.NewReader(whole[:len(whole)-1024]), `"last"`) // between two entries: all of them are there
	for name, pack := range packers {
		t.Run(name, func(t *testing.T) {
			packed := pack(t, whole)
			step := 1
			if testing.Short() {
				step = 7 // no divisor of what its formats are aligned to
			}
			for n := 0; n < len(packed); n += step {
				refused(t, bytes.NewReader(packed[:n]), "")
			}
		})
	}
}

var packers = map[string]func(t testing.TB, b []byte) []byte{
	"gzip": func(t testing.TB, b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		must(t, err, w.Close())
		return out.Bytes()
	},
	"zstd": func(t testing.TB, b []byte) []byte {
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out)
		must(t, err)
		_, err = w.Write(b)
		must(t, err, w.Close())
		return out.Bytes()
	},
	"xz": func(t testing.TB, b []byte) []byte {
		var out bytes.Buffer
		w, err := xz.WriterConfig{BlockSize: 2048}.NewWriter(&out)
		must(t, err)
		_, err = w.Write(b)
		must(t, err, w.Close())
		return out.Bytes()
	},
}

// However it is packed and however its bytes arrive, the same tar is the same image.
func TestSameTarSameImage(t *testing.T) {
	whole := archive(t, dir("d", 0o755), file("d/one", strings.Repeat("1", 70000)), hardlink("e", "d/one"), file("last", "x"))
	store := &rootfs.Store{Dir: t.TempDir()}
	want, err := store.Import(t.Context(), bytes.NewReader(whole), nil)
	must(t, err)
	if want.Entries != 4 {
		t.Errorf("%d entries, want 4", want.Entries)
	}
	streams := map[string]io.Reader{
		"byte by byte": iotest.OneByteReader(bytes.NewReader(whole)), "end with data": iotest.DataErrReader(bytes.NewReader(whole)),
		"longer padding": io.MultiReader(bytes.NewReader(whole), strings.NewReader(strings.Repeat("\x00", 10240))),
	}
	for name, pack := range packers {
		streams[name] = bytes.NewReader(pack(t, whole))
	}
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		if cmd := exec.Command("xz", "-c", "--check="+check); cmd.Err == nil {
			cmd.Stdin = bytes.NewReader(whole)
			out, err := cmd.Output()
			must(t, err)
			streams["xz "+check] = bytes.NewReader(out)
		}
	}
	for name, stream := range streams {
		got, err := store.Import(t.Context(), stream, nil)
		if err != nil || got.ID != want.ID {
			t.Errorf("%s: image %s, %v; want %s", name, got.ID, err, want.ID)
		}
	}
}

// A damaged checksum is seen, though the tar in the stream is whole.
func TestDamagedChecksum(t *testing.T) {
	for name, at := range map[string]int{"gzip": 6, "zstd": 2} {
		packed := packers[name](t, archive(t, file("a", "x")))
		packed[len(packed)-at] ^= 1
		refused(t, bytes.NewReader(packed), "")
	}
}

type endless struct{ part []byte }

func (e endless) Read(b []byte) (int, error) { return copy(b, e.part), nil }

func TestEndless(t *testing.T) {
	start := archive(t, file("first", "x"))
	start = start[:len(start)-1024]
	out, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer out.Close()
	extended := archive(t, entry{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 200) + "\xff"})
	for name, part := range map[string][]byte{
		"padding":          archive(t)[:512],
		"headers for none": extended[:1024], // each replaces the one before, none has an entry
		"small files":      archive(t, file("first", "x"))[:1024],
	} {
		stream := io.MultiReader(bytes.NewReader(start), endless{part})
		_, err := rootfs.WriteWithin(t.Context(), stream, out, nil, 8<<20)
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), `"first"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var huge bytes.Buffer
	must(t, tar.NewWriter(&huge).WriteHeader(&tar.Header{Name: "huge", Size: 1 << 60, Format: tar.FormatGNU}))
	refused(t, io.MultiReader(&huge, endless{[]byte("data")}), "huge")
}

// A reader that breaks isn't a bad archive.
func TestBrokenReader(t *testing.T) {
	whole := archive(t, file("a", strings.Repeat("x", 10000)))
	lost := errors.New("connection lost")
	store := &rootfs.Store{Dir: t.TempDir()}
	_, err := store.Import(t.Context(), io.MultiReader(bytes.NewReader(whole[:5000]), iotest.ErrReader(lost)), nil)
	if banger.CodeOf(err) != banger.CodeUnavailable || !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}

// An import that waits for its stream ends with its context and leaves nothing.
func TestCancel(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		w.Write(archive(t, file("a", strings.Repeat("x", 30000)))[:20000])
		cancel()
	}()
	store := &rootfs.Store{Dir: t.TempDir()}
	_, err = store.Import(ctx, r, nil)
	if banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(store.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Clean takes what a dead import left and nothing else.
func TestClean(t *testing.T) {
	store := &rootfs.Store{Dir: t.TempDir()}
	img, err := store.Import(t.Context(), bytes.NewReader(archive(t, file("a", "x"))), nil)
	must(t, err)
	dead := filepath.Join(store.Dir, ".import-dead")
	must(t, os.WriteFile(dead, nil, 0o600))
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := store.Import(t.Context(), r, nil)
		done <- err
	}()
	_, err = w.Write(make([]byte, 1)) // returns when the import reads: its file is there and locked
	must(t, err)
	before, err := os.ReadDir(store.Dir)
	must(t, err, store.Clean())
	after, err := os.ReadDir(store.Dir)
	must(t, err)
	if len(before) != 3 || len(after) != 2 {
		t.Errorf("before %v, after %v", before, after)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead import's file: %v", err)
	}
	if _, err := store.Path(img.ID); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := <-done; banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("the cut off import: %v", err)
	}
	must(t, (&rootfs.Store{Dir: filepath.Join(store.Dir, "never")}).Clean())
}

func TestStore(t *testing.T) {
	store := &rootfs.Store{Dir: t.TempDir()}
	img, err := store.Import(t.Context(), bytes.NewReader(archive(t, file("a", "x"))), nil)
	must(t, err)
	path, err := store.Path(img.ID)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o400 || info.Size() != img.Size || img.Size%4096 != 0 {
		t.Errorf("mode %v, %d bytes, said %d", info.Mode(), info.Size(), img.Size)
	}
	must(t, store.Remove(img.ID), store.Remove(img.ID))
	for _, id := range []string{img.ID, "", "../../../etc", strings.Repeat("A", 12), "..%2f..%2f.."} {
		if _, err := store.Path(id); banger.CodeOf(err) != banger.CodeNotFound {
			t.Errorf("path of %q: %v", id, err)
		}
		must(t, store.Remove(id))
	}
}

// An image is its whole content: one that begins with the same digits is another, and
// what is there already stays the very file that VMs run from.
func TestNothingIsReplaced(t *testing.T) {
	store := &rootfs.Store{Dir: t.TempDir()}
	tar := archive(t, file("a", "x"))
	img, err := store.Import(t.Context(), bytes.NewReader(tar), nil)
	must(t, err)
	short := banger.ShortID(img.ID)
	if len(img.ID) != 64 || !banger.IsImageID(short) {
		t.Fatalf("the id is %q", img.ID)
	}
	// One of an earlier build, which an attacker made to have those digits.
	forged := filepath.Join(store.Dir, short+".erofs")
	must(t, os.WriteFile(forged, []byte("another image"), 0o400))
	path, err := store.Path(img.ID)
	must(t, err)
	before, err := os.Stat(path)
	must(t, err)
	again, err := store.Import(t.Context(), bytes.NewReader(tar), nil)
	must(t, err)
	after, err := os.Stat(path)
	must(t, err)
	if again.ID != img.ID || !os.SameFile(before, after) {
		t.Errorf("%s: the file was replaced", again.ID)
	}
	if old, err := store.Path(short); err != nil || old != forged {
		t.Errorf("an image of an earlier build: %q, %v", old, err)
	}
	if data, err := os.ReadFile(forged); err != nil || string(data) != "another image" {
		t.Errorf("it became %q, %v", data, err)
	}
	must(t, store.Sweep([]string{img.ID}))
	if _, err := store.Path(short); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("nobody keeps it, and it stays: %v", err)
	}
	if left, err := os.ReadDir(store.Dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Sweep takes images nobody keeps, and nothing that only looks like one.
func TestSweep(t *testing.T) {
	store := &rootfs.Store{Dir: filepath.Join(t.TempDir(), "images")}
	must(t, store.Sweep(nil)) // before there is anything
	kept, err := store.Import(t.Context(), bytes.NewReader(archive(t, file("a", "x"))), nil)
	must(t, err)
	lost, err := store.Import(t.Context(), bytes.NewReader(archive(t, file("b", "y"))), nil)
	must(t, err)
	for _, name := range []string{"notes.txt", "my.erofs", ".import-1", lost.ID + ".erofs.bak"} {
		must(t, os.WriteFile(filepath.Join(store.Dir, name), nil, 0o600))
	}
	must(t, store.Sweep([]string{kept.ID}))
	files, err := os.ReadDir(store.Dir)
	must(t, err)
	if _, err := store.Path(lost.ID); banger.CodeOf(err) != banger.CodeNotFound || len(files) != 5 {
		t.Errorf("after the sweep: %v, %v", files, err)
	}
	if _, err := store.Path(kept.ID); err != nil {
		t.Error(err)
	}
}

// A full disk is the host's trouble, not the archive's.
func TestDiskFull(t *testing.T) {
	needs(t, true)
	small := t.TempDir()
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=2m"))
	defer unix.Unmount(small, 0)
	store := &rootfs.Store{Dir: small}
	_, err := store.Import(t.Context(), bytes.NewReader(archive(t, file("a", strings.Repeat("x", 4<<20)))), nil)
	if banger.CodeOf(err) != banger.CodeUnavailable || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(small); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
