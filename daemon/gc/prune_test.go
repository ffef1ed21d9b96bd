package gc_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/daemon/gc"
)

// shelf is a catalog that notes what is deleted.
type shelf struct {
	images  []banger.Image
	kernels []banger.Kernel
	deleted []string
	err     error
}

func (s *shelf) Images(context.Context) ([]banger.Image, error) {
	list := slices.Clone(s.images)
	for i := range list {
		list[i].Lock = nil // as in banger.ImageService
	}
	return list, nil
}

func (s *shelf) Image(_ context.Context, ref string) (banger.Image, error) {
	return s.images[slices.IndexFunc(s.images, func(i banger.Image) bool { return i.Name == ref })], nil
}

func (s *shelf) DeleteImage(_ context.Context, ref string) error { return s.remove("image " + ref) }

func (s *shelf) Kernels(context.Context) ([]banger.Kernel, error) { return s.kernels, nil }

func (s *shelf) DeleteKernel(_ context.Context, ref string) error { return s.remove("kernel " + ref) }

func (s *shelf) remove(what string) error {
	if s.err == nil {
		s.deleted = append(s.deleted, what)
	}
	return s.err
}

type frozen struct{ *shelf }

func (f frozen) Templates(context.Context) ([]banger.Template, error) {
	return []banger.Template{
		{ID: "777777777777", Kernel: "cccccccccccc", Bytes: 7},
		{ID: "888888888888", Kernel: "dddddddddddd", Bytes: 8}, {ID: "999999999999", Kernel: "cccccccccccc", Image: "spare", ImageID: "333333333333", Bytes: 9},
	}, nil
}

func (f frozen) Template(context.Context, string) (banger.Template, error) {
	panic("one template is looked at")
}

func (f frozen) CreateTemplate(context.Context, banger.TemplateSpec, banger.Progress) (banger.Template, error) {
	panic("a template is made")
}

func (f frozen) DeleteTemplate(_ context.Context, id string) error { return f.remove("template " + id) }

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	downloads := filepath.Join(dir, "cache/downloads")
	part := filepath.Join(downloads, strings.Repeat("a", 64)+".part")
	for _, d := range []string{downloads, filepath.Join(dir, "data/kernels/eeeeeeeeeeee"), filepath.Join(dir, "data/kernels/.pull-x")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{part, filepath.Join(downloads, "mine"), filepath.Join(dir, "data/kernels/eeeeeeeeeeee/vmlinux")} {
		if err := os.WriteFile(f, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	built := &banger.Lock{Suite: "bookworm"}
	s := &shelf{
		images: []banger.Image{
			{Name: "default", ID: "111111111111", Lock: built}, {Name: "used", ID: "222222222222", Lock: built},
			{Name: "spare", ID: "333333333333", Lock: built}, {Name: "imported", ID: "444444444444"},
		},
		kernels: []banger.Kernel{
			{Name: "cloud", ID: "aaaaaaaaaaaa"}, {Name: "cloud", ID: "bbbbbbbbbbbb"}, {Name: "cloud", ID: "cccccccccccc"}, {Name: "other", ID: "dddddddddddd"}, {Name: "mine", ID: "ffffffffffff", Imported: true},
		},
	}
	c := &gc.Collector{Dir: dir + "/state", Data: dir + "/data", Cache: dir + "/cache", RAMDirs: []string{dir + "/ram"},
		VMs: func(context.Context) ([]banger.VM, error) {
			return []banger.VM{{ID: ours, ImageID: "222222222222", KernelID: "bbbbbbbbbbbb"}}, nil
		},
		Spare: gc.Spare{Catalog: s, Templates: frozen{s}, Downloads: []string{downloads, dir + "/cache/none"}, Image: "default", Kernel: "cloud"}}
	prune := func(opt banger.PruneOptions) (said []string) {
		t.Helper()
		s.deleted = nil
		list, err := c.Prune(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			said = append(said, fmt.Sprintf("%s %s %d %v %s", p.Kind, p.ID, p.Bytes, p.Removed, p.Detail))
		}
		return said
	}
	same := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	some := func(removed bool) []string {
		return []string{
			fmt.Sprint("template 888888888888 8 ", removed, " "), fmt.Sprint("template 999999999999 9 ", removed, " "),
			fmt.Sprint("image 333333333333 0 ", removed, " "), fmt.Sprint("kernel aaaaaaaaaaaa 0 ", removed, " "), fmt.Sprint("kernel dddddddddddd 0 ", removed, " "),
		}
	}
	same(prune(banger.PruneOptions{DryRun: true}), append(some(false), "download downloads 8192 false ")...)
	same(s.deleted)

	// What a fetch is at stays, whoever else prunes.
	d, err := os.Open(downloads)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	same(prune(banger.PruneOptions{}), append(some(true), "download downloads 8192 false kept: a fetch or build under way may use them")...)
	same(s.deleted, "template 888888888888", "template 999999999999", "image spare", "kernel aaaaaaaaaaaa", "kernel dddddddddddd")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s.err = banger.Errorf(banger.CodeConflict, "in use since")
	same(prune(banger.PruneOptions{})[2:3], "image 333333333333 0 false in use since")
	s.err = nil
	if _, err := os.Stat(part); err == nil {
		t.Error("the download is there still")
	}
	if _, err := os.Stat(filepath.Join(downloads, "mine")); err != nil {
		t.Errorf("what isn't a download: %v", err)
	}

	c.Spare.Alone = true
	same(prune(banger.PruneOptions{All: true}), "template 777777777777 7 true ", "template 888888888888 8 true ", "template 999999999999 9 true ", "image 111111111111 0 true ", "image 333333333333 0 true ",
		"kernel aaaaaaaaaaaa 0 true ", "kernel cccccccccccc 0 true ", "kernel dddddddddddd 0 true ", "kernel eeeeeeeeeeee 8192 true ")
}
