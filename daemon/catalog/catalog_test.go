package catalog_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/catalog"
	"banger/fake"
)

func begin(t *testing.T, fate func(string) fake.Fate) (*fake.Host, *fake.Store, *catalog.Catalog) {
	t.Helper()
	host, store := fake.NewHost(), fake.NewStore()
	return host, store, over(host, store, fate)
}

func over(host *fake.Host, store *fake.Store, fate func(string) fake.Fate) *catalog.Catalog {
	life := host.Live(fate)
	return &catalog.Catalog{Store: life.Store(store), ImageFiles: life.Images(), KernelFiles: life.Kernels(), Kernel: "cloud", Now: time.Now}
}

func bring(t *testing.T, c *catalog.Catalog, name, tar string) (banger.Image, error) {
	t.Helper()
	return c.ImportImage(t.Context(), name, "test", false, strings.NewReader(tar), nil)
}

func want(t *testing.T, err error, code banger.Code) {
	t.Helper()
	if got := banger.CodeOf(err); got != code {
		t.Fatalf("got %v (code %q), want code %q", err, got, code)
	}
}

func TestResolve(t *testing.T) {
	_, _, c := begin(t, nil)
	img, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	for _, ref := range []string{"debian", img.ID, img.ID[:4]} {
		id, kernel, err := c.Resolve(t.Context(), ref, "cloud", nil)
		if err != nil || id != img.ID || kernel == "" {
			t.Errorf("%q: %q, %q, %v", ref, id, kernel, err)
		}
		if _, boot, err := c.Files(t.Context(), id, kernel); err != nil || boot.Vmlinux == "" {
			t.Errorf("%q: %+v, %v", ref, boot, err)
		}
		if v, err := c.KernelVersion(t.Context(), kernel); err != nil || v == "" {
			t.Errorf("%q: %q, %v", ref, v, err)
		}
	}
	for _, id := range []string{"abcd00000000", "abcd11111111"} {
		want(t, c.Store.PutImage(t.Context(), banger.Image{Name: id, ID: id}, false), "")
	}
	_, _, err = c.Resolve(t.Context(), "abcd", "cloud", nil)
	if want(t, err, banger.CodeConflict); !strings.Contains(err.Error(), "names 2 images") {
		t.Error(err)
	}
	for _, ref := range []string{"", "deb", img.ID[:3], "nosuch"} {
		_, _, err := c.Resolve(t.Context(), ref, "cloud", nil)
		want(t, err, banger.CodeNotFound)
	}
	if list, err := c.Kernels(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("the kernel was fetched %d times: %v", len(list), err)
	}
}

// A daemon that dies between an image's publication and its record leaves a
// file nobody names; the next one sweeps it.
func TestSweep(t *testing.T) {
	host, store, c := begin(t, nil)
	kept, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	dying := over(host, store, func(point string) fake.Fate {
		if point == "before put image" {
			return fake.Die
		}
		return fake.Live
	})
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = dying.ImportImage(context.Background(), "lost", "test", false, strings.NewReader("another tar"), nil)
	}()
	<-over
	if n := strings.Count(host.String(), "image "); n != 2 {
		t.Fatalf("%d images before the sweep:\n%s", n, host)
	}
	want(t, c.Sweep(t.Context()), "")
	if s := host.String(); strings.Count(s, "image ") != 1 || !strings.Contains(s, kept.ID) {
		t.Errorf("after the sweep:\n%s", s)
	}
}

// A kernel goes by its id or a name that it alone has, not while a VM uses it; one
// that a death left without a record is rid of its files.
func TestDeleteKernel(t *testing.T) {
	_, store, c := begin(t, nil)
	img, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	old, err := c.PullKernel(t.Context(), "cloud", nil)
	want(t, err, "")
	newer := banger.Kernel{ID: "dddddddddddd", Name: "cloud", Created: time.Now().Add(time.Hour)}
	want(t, store.PutKernel(t.Context(), newer), "")
	vm := banger.VM{ID: "111111111111", State: banger.Creating, ImageID: img.ID, KernelID: old.ID}
	want(t, store.Commit(t.Context(), vm, nil, false), "")
	err = c.DeleteKernel(t.Context(), "cloud")
	if want(t, err, banger.CodeConflict); !strings.Contains(err.Error(), "names 2 kernels") {
		t.Error(err)
	}
	err = c.DeleteKernel(t.Context(), old.ID)
	if want(t, err, banger.CodeConflict); !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	want(t, c.DeleteKernel(t.Context(), "dddd"), "")
	want(t, c.DeleteKernel(t.Context(), newer.ID), banger.CodeNotFound)
	vm.State = banger.Gone
	want(t, store.Commit(t.Context(), vm, nil, false), "")
	want(t, c.DeleteKernel(t.Context(), "cloud"), "")
	if list, err := c.Kernels(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	_, err = c.KernelVersion(t.Context(), old.ID)
	want(t, err, banger.CodeNotFound)
}

// While a kernel is fetched none is deleted, nor waited for.
func TestDeleteKernelBusy(t *testing.T) {
	_, _, c := begin(t, nil)
	busy := make(chan error)
	c.KernelFiles = pulling{c.KernelFiles, func() { busy <- c.DeleteKernel(context.Background(), "cloud") }}
	go func() {
		_, err := c.PullKernel(context.Background(), "cloud", nil)
		busy <- err
	}()
	want(t, <-busy, banger.CodeConflict)
	want(t, <-busy, "")
}

type pulling struct {
	banger.Kernels
	meanwhile func()
}

func (p pulling) Pull(ctx context.Context, name string, progress banger.Progress) (banger.Kernel, error) {
	p.meanwhile()
	return p.Kernels.Pull(ctx, name, progress)
}

// A record that can't be written takes the file back.
func TestImportUndone(t *testing.T) {
	host, _, c := begin(t, func(point string) fake.Fate {
		if point == "before put image" {
			return fake.Fail
		}
		return fake.Live
	})
	_, err := bring(t, c, "debian", "a tar")
	want(t, err, banger.CodeInternal)
	if s := host.String(); strings.Contains(s, "image ") {
		t.Errorf("a file without a name stays:\n%s", s)
	}
}
