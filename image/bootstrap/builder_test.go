package bootstrap

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/fetch/debian"
	"banger/test/archivetest"
)

// shelf is images in memory: their tars are read and listed.
type shelf struct {
	images map[string]banger.Image
	tars   map[string][]string // names in the tar, by image
}

func newShelf() *shelf { return &shelf{map[string]banger.Image{}, map[string][]string{}} }

func (s *shelf) Add(_ context.Context, img banger.Image, replace bool, r io.Reader, _ banger.Progress) (banger.Image, error) {
	var names []string
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return banger.Image{}, err
		}
		names = append(names, h.Name)
	}
	if _, ok := s.images[img.Name]; ok && !replace {
		return banger.Image{}, banger.Errorf(banger.CodeConflict, "there is one")
	}
	s.images[img.Name], s.tars[img.Name] = img, names
	return img, nil
}

func (s *shelf) Images(context.Context) ([]banger.Image, error) {
	return slices.Collect(maps.Values(s.images)), nil
}

func (s *shelf) Image(_ context.Context, ref string) (banger.Image, error) {
	img, ok := s.images[ref]
	if !ok {
		return img, banger.Errorf(banger.CodeNotFound, "no image %q", ref)
	}
	return img, nil
}

func (s *shelf) DeleteImage(_ context.Context, ref string) error {
	delete(s.images, ref)
	return nil
}

func (s *shelf) DropUnfinished(context.Context) error {
	maps.DeleteFunc(s.images, func(_ string, i banger.Image) bool { return i.Unfinished })
	return nil
}

// noMachines is a host that can't start VMs.
type noMachines struct{ Machines }

var errNoMachine = errors.New("no machines today")

func (noMachines) CreateVM(context.Context, banger.Spec, bool, banger.Progress) (banger.VM, error) {
	return banger.VM{}, errNoMachine
}

var packages = []archivetest.Deb{
	{Name: "apt", Version: "2.6.1", Fields: "Depends: libc6 (>= 2.36), tool | other\n"},
	{Name: "base-files", Version: "12.4", Fields: "Essential: yes\n", Files: []tar.Header{{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755}}},
	{Name: "libc6", Version: "2.36-9", Fields: "Multi-Arch: same\n"},
	{Name: "tool", Version: "1.0"},
}

// builder builds from an archive of packages on a host without machines.
func builder(t *testing.T) (*Builder, *archivetest.Archive, *shelf) {
	t.Helper()
	a, s := archivetest.New(t, packages...), newShelf()
	return &Builder{
		Archives: Archives{From: debian.Source{CacheDir: t.TempDir(), Mirror: a.URL("debian"), Security: a.URL("debian-security"), Keys: a.Keys, Stall: 100 * time.Millisecond}},
		Images:   s, Machines: noMachines{}, NewID: func() string { return "id" }, Log: slog.New(slog.DiscardHandler),
	}, a, s
}

var recipe = banger.Recipe{Name: "debian-12", Suite: "bookworm", Packages: []string{"apt"}}

// What a recipe leaves open is the default image's.
func TestOpenRecipe(t *testing.T) {
	var r banger.Recipe
	if err := valid(&r); err != nil {
		t.Fatal(err)
	}
	if r.Name != "debian-12" || r.Suite != "bookworm" || !slices.Contains(r.Packages, "systemd") {
		t.Errorf("an empty recipe means %+v", r)
	}
	if !slices.Contains(r.Packages, "python3") {
		t.Errorf("nobody can work in %q", r.Packages)
	}
	r = banger.Recipe{Minimal: true, Name: "debian-13"}
	if err := valid(&r); err != nil || r.Suite != "trixie" || !slices.Contains(r.Packages, "systemd") || slices.Contains(r.Packages, "python3") {
		t.Errorf("%v: a minimal debian-13 is %+v", err, r)
	}
	r = banger.Recipe{Minimal: true, Packages: []string{"git"}}
	if err := valid(&r); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("two lists: %v", err)
	}
	r = banger.Recipe{Suite: "trixie", Packages: []string{"git"}}
	if err := valid(&r); err != nil || r.Name != "debian-13" || !slices.Equal(r.Packages, []string{"git"}) {
		t.Errorf("%v: %+v", err, r)
	}
}

// Who waits for another build can be told to stop.
func TestWaitForAnother(t *testing.T) {
	b, _, _ := builder(t)
	leave, err := b.one.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.BuildImage(ctx, recipe, nil); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("%v, want that it was canceled", err)
	}
	leave()
	if leave, err = b.one.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	leave()
}

// What a mirror does wrong is named, and leaves no image.
func TestHostileMirrors(t *testing.T) {
	tool := archivetest.Pool(packages[3])
	serve := func(data func(a *archivetest.Archive) []byte) func(*testing.T, *archivetest.Archive, string) {
		return func(_ *testing.T, a *archivetest.Archive, path string) {
			answer := data(a)
			a.Answer(path, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(answer) })
		}
	}
	hang := func(_ *testing.T, a *archivetest.Archive, path string) {
		a.Answer(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("!<arch>\n"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
	}
	for name, c := range map[string]struct {
		path string
		do   func(*testing.T, *archivetest.Archive, string)
		want string
	}{
		"another's signature": {archivetest.InRelease, func(t *testing.T, a *archivetest.Archive, path string) {
			other := archivetest.New(t, packages...).File(path)
			serve(func(*archivetest.Archive) []byte { return other })(t, a, path)
		}, "signature"},
		"changed after signing": {archivetest.InRelease, serve(func(a *archivetest.Archive) []byte {
			return []byte(strings.Replace(string(a.File(archivetest.InRelease)), "Origin: Debian", "Origin: Evil", 1))
		}), "signature"},
		"a page that asks for a login": {archivetest.InRelease, serve(func(*archivetest.Archive) []byte { return []byte("<html>log in</html>") }), "no signed message"},
		"an index of another hash":     {"/debian/dists/bookworm/main/binary-amd64/Packages.xz", serve(func(*archivetest.Archive) []byte { return []byte("x") }), "bookworm"},
		"a package of another hash": {tool, serve(func(a *archivetest.Archive) []byte {
			return []byte(strings.ToUpper(string(a.File(tool))))
		}), "content doesn't match its hash"},
		"a truncated package":  {tool, serve(func(a *archivetest.Archive) []byte { return a.File(tool)[:100] }), tool},
		"a package that hangs": {tool, hang, "no data arrived"},
		"a release that hangs": {archivetest.InRelease, hang, "no data arrived"},
		"a package that went":  {tool, func(_ *testing.T, a *archivetest.Archive, path string) { a.Lose(path) }, "package tool 1.0 isn't where the archive's index says"},
		"nobody there":         {"", func(_ *testing.T, a *archivetest.Archive, _ string) { a.Close() }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			b, a, s := builder(t)
			c.do(t, a, c.path)
			_, err := b.BuildImage(t.Context(), recipe, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !slices.Contains([]banger.Code{banger.CodeUnavailable, banger.CodeTimeout}, banger.CodeOf(err)) {
				t.Errorf("%s: %v, want %q", banger.CodeOf(err), err, c.want)
			}
			if e, ok := errors.AsType[*banger.Error](err); !ok || e.Hint == "" {
				t.Errorf("nobody is told what to do: %v", err)
			}
			if len(s.images) > 0 {
				t.Errorf("an image was made: %v", s.images)
			}
		})
	}
}

// A build that a mirror cut short goes on with what it had.
func TestResume(t *testing.T) {
	b, a, s := builder(t)
	tool := archivetest.Pool(packages[3])
	a.Lose(tool)
	if _, err := b.BuildImage(t.Context(), recipe, nil); err == nil {
		t.Fatal("a package is missing, and it was built")
	}
	var whole []string // paths of what the first try left
	for _, p := range packages {
		data := a.File(archivetest.Pool(p))
		if _, err := os.Stat(filepath.Join(b.From.CacheDir, fmt.Sprintf("%x", sha256.Sum256(data)))); err == nil {
			whole = append(whole, archivetest.Pool(p))
		}
	}
	a.Publish(t, packages...)
	s.images["unfinished/of-a-dead-daemon"] = banger.Image{Name: "unfinished/of-a-dead-daemon", Unfinished: true}
	if _, err := b.BuildImage(t.Context(), recipe, nil); !errors.Is(err, errNoMachine) {
		t.Fatalf("%v, want a build as far as its VM", err)
	}
	for _, p := range whole {
		if n := a.Asked(p); n != 1 {
			t.Errorf("%s was there, and was asked for %d times", p, n)
		}
	}
	if len(s.images) > 0 {
		t.Errorf("images stay: %v", s.images)
	}
}

// An interrupted build says so, and stops though the mirror doesn't answer.
func TestInterrupt(t *testing.T) {
	b, a, _ := builder(t)
	b.From.Stall = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	a.Answer(archivetest.Pool(packages[3]), func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, err := b.BuildImage(ctx, recipe, nil)
	if banger.CodeOf(err) != banger.CodeCanceled {
		t.Fatalf("%v", err)
	}
	if e, ok := errors.AsType[*banger.Error](err); !ok || !strings.Contains(e.Hint, "what was fetched is kept") {
		t.Errorf("hint: %v", err)
	}
}

// A lock is repeated though the mirror has moved on: from an archive of archives.
func TestLock(t *testing.T) {
	b, a, s := builder(t)
	lock, err := b.resolve(t.Context(), "bookworm", nil, func(string, string, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	if names := nameList(lock); names != "apt base-files libc6 tool" {
		t.Fatalf("resolved to %s", names)
	}
	old := archivetest.Pool(packages[3])
	kept := a.File(old)
	newer := slices.Clone(packages)
	newer[3].Version = "1.1"
	a.Publish(t, newer...)
	a.Lose(old)
	locked := banger.Recipe{Name: "again", Lock: &lock, Snapshot: a.URL("snapshot")}
	if _, err := b.BuildImage(t.Context(), locked, nil); err == nil || !strings.Contains(err.Error(), "package tool 1.0") {
		t.Fatalf("%v, want to hear of the package nobody has", err)
	}
	a.Put("/snapshot/debian/"+lock.Date.Format("20060102T150405Z")+"/pool/tool_1.0.deb", kept)
	if _, err := b.BuildImage(t.Context(), locked, nil); !errors.Is(err, errNoMachine) {
		t.Fatalf("%v, want a build as far as its VM", err)
	}
	names := s.tars[banger.UnfinishedImage+"id"]
	if !slices.Contains(names, "var/lib/dpkg/status") {
		t.Errorf("the tree has no record of its packages: %v", names)
	}
}

func nameList(lock banger.Lock) string {
	var names []string
	for _, p := range lock.Packages {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

// An image that is there is kept unless told otherwise, and never taken for another.
func TestNameTaken(t *testing.T) {
	b, _, s := builder(t)
	lock, err := b.resolve(t.Context(), "bookworm", nil, func(string, string, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	built := banger.Image{ID: "abc", Name: "debian-12", Lock: &lock}
	other := lock
	other.Packages = lock.Packages[1:]
	for name, c := range map[string]struct {
		have banger.Image
		want banger.Code
		r    banger.Recipe
	}{
		"built before":              {built, "", recipe},
		"the same, and replace":     {built, "", banger.Recipe{Name: "debian-12", Suite: "bookworm", Packages: []string{"apt"}, Replace: true}},
		"the same lock":             {built, "", banger.Recipe{Name: "debian-12", Lock: &lock}},
		"another lock":              {built, banger.CodeConflict, banger.Recipe{Name: "debian-12", Lock: &other}},
		"another suite":             {built, banger.CodeConflict, banger.Recipe{Name: "debian-12", Suite: "trixie"}},
		"imported":                  {banger.Image{ID: "abc", Name: "debian-12"}, banger.CodeConflict, recipe},
		"no suite":                  {built, banger.CodeInvalid, banger.Recipe{Name: "x", Suite: "sid"}},
		"no package's name":         {built, banger.CodeInvalid, banger.Recipe{Name: "x", Suite: "bookworm", Packages: []string{"../x"}}},
		"no such package":           {built, banger.CodeInvalid, banger.Recipe{Name: "x", Suite: "bookworm", Packages: []string{"emacs"}}},
		"a lock and a list":         {built, banger.CodeInvalid, banger.Recipe{Name: "x", Lock: &lock, Packages: []string{"apt"}}},
		"an empty lock":             {built, banger.CodeInvalid, banger.Recipe{Name: "x", Lock: &banger.Lock{Suite: "bookworm"}}},
		"a lock of another archive": {built, banger.CodeInvalid, banger.Recipe{Name: "x", Lock: &banger.Lock{Suite: "bookworm", Packages: []banger.Package{{Name: "aa", Archive: "../x"}}}}},
		"a lock that leaves the root": {built, banger.CodeInvalid, banger.Recipe{Name: "x", Lock: &banger.Lock{Suite: "bookworm", Packages: []banger.Package{
			{Name: "aa", Archive: "debian", Path: "../../etc/passwd", SHA256: strings.Repeat("0", 64), Size: 1}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			s.images = map[string]banger.Image{"debian-12": c.have}
			img, err := b.BuildImage(t.Context(), c.r, nil)
			if banger.CodeOf(err) != c.want {
				t.Errorf("%q: %v, want %q", banger.CodeOf(err), err, c.want)
			}
			if err == nil && img.ID != "abc" {
				t.Errorf("it is %v", img)
			}
			if len(s.images) != 1 {
				t.Errorf("images: %v", s.images)
			}
		})
	}
}

// A build that is told nothing may go on beside another: one waits for the other.
func TestOneBuild(t *testing.T) {
	b, a, _ := builder(t)
	var now, most atomic.Int32
	a.Answer(archivetest.InRelease, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		_, _ = w.Write(a.File(archivetest.InRelease))
	})
	done := make(chan error)
	for range 3 {
		go func() {
			_, err := b.BuildImage(t.Context(), recipe, nil)
			done <- err
		}()
	}
	for range 3 {
		if err := <-done; !errors.Is(err, errNoMachine) {
			t.Error(err)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d builds at once", most.Load())
	}
}

// Downloads that nobody wants any more go; the cache belongs to its owner alone.
func TestCache(t *testing.T) {
	b, _, _ := builder(t)
	b.From.CacheDir = filepath.Join(b.From.CacheDir, "packages")
	stale := filepath.Join(b.From.CacheDir, strings.Repeat("a", 64))
	if err := errors.Join(os.MkdirAll(b.From.CacheDir, 0o700), os.WriteFile(stale, nil, 0o600), os.Chtimes(stale, time.Time{}, time.Now().AddDate(0, -1, 0))); err != nil {
		t.Fatal(err)
	}
	if _, err := b.BuildImage(t.Context(), recipe, nil); !errors.Is(err, errNoMachine) {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("an old download stays")
	}
}

// Images of the suites' own names can be had, others can't.
func TestCost(t *testing.T) {
	b, a, _ := builder(t)
	fast, ok := b.Cost("debian-13")
	if !ok || fast.Name != "debian-13" || fast.Source != a.URL("debian") || fast.Download == 0 || fast.Disk == 0 {
		t.Errorf("%v: %+v", ok, fast)
	}
	b.Emulated = true
	if slow, ok := b.Cost("debian-12"); !ok || slow.Seconds <= fast.Seconds {
		t.Errorf("%v: emulated %+v, else %+v", ok, slow, fast)
	}
	if _, ok := b.Cost("mine"); ok {
		t.Error("anything can be built by its name")
	}
}
