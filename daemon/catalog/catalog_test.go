package catalog_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/daemon/catalog"
	"banger/test/fake"
)

func begin(t *testing.T, fate func(string) fake.Fate) (*fake.Host, *fake.Store, *catalog.Catalog) {
	t.Helper()
	host, store := fake.NewHost(), fake.NewStore()
	return host, store, over(host, store, fate)
}

func over(host *fake.Host, store *fake.Store, fate func(string) fake.Fate) *catalog.Catalog {
	life := host.Live(fate)
	return &catalog.Catalog{Store: life.Store(store), ImageFiles: life.Images(), KernelFiles: life.Kernels(), Default: "cloud", Now: time.Now}
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
		got, kernel, err := c.Resolve(t.Context(), ref, "cloud", nil)
		if err != nil || got.ID != img.ID || kernel == "" {
			t.Errorf("%q: %q, %q, %v", ref, got.ID, kernel, err)
		}
		if _, boot, err := c.Files(t.Context(), got.ID, kernel); err != nil || boot.Vmlinux == "" {
			t.Errorf("%q: %+v, %v", ref, boot, err)
		}
		if v, err := c.KernelVersion(t.Context(), kernel); err != nil || v == "" {
			t.Errorf("%q: %q, %v", ref, v, err)
		}
	}
	// Who updates a kernel gives it to new VMs; others have theirs by its id.
	_, old, err := c.Resolve(t.Context(), "debian", "cloud", nil)
	want(t, err, "")
	want(t, c.Store.PutKernel(t.Context(), banger.Kernel{ID: "dddddddddddd", Name: "cloud", Created: time.Now().Add(time.Hour)}), "")
	for ref, id := range map[string]string{"cloud": "dddddddddddd", old: old} {
		if _, got, err := c.Resolve(t.Context(), "debian", ref, nil); err != nil || got != id {
			t.Errorf("kernel %s: %s, %v", ref, got, err)
		}
	}
	want(t, c.DeleteKernel(t.Context(), "dddddddddddd"), "")
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

// What a user calls an image is no reason to hide it or to take it away; what a
// builder left is, whichever build made it.
func TestUnfinished(t *testing.T) {
	host, store, c := begin(t, nil)
	mine, err := bring(t, c, "unfinished/business", "a tar")
	want(t, err, "")
	_, err = c.Add(t.Context(), banger.Image{Name: "unfinished/0123456789ab", Unfinished: true}, false, strings.NewReader("a step"), nil)
	want(t, err, "")
	stray, err := c.ImageFiles.Import(t.Context(), strings.NewReader("being imported"), nil)
	want(t, err, "")
	want(t, c.DropUnfinished(t.Context()), "")
	if s := host.String(); strings.Count(s, "image ") != 2 || !strings.Contains(s, stray.ID) || !strings.Contains(s, mine.ID) {
		t.Errorf("without a builder's:\n%s", s)
	}
	before, err := bring(t, c, "another", "a step of an earlier build")
	want(t, err, "")
	want(t, c.DeleteImage(t.Context(), "another"), "")
	before.Name, before.Source = "unfinished/111111111111", "packages to be configured"
	want(t, store.PutImage(t.Context(), before, false), "")
	for range 2 {
		list, err := c.Images(t.Context())
		if err != nil || len(list) != 1 || list[0].ID != mine.ID {
			t.Errorf("%+v, %v", list, err)
		}
		want(t, c.Sweep(t.Context()), "")
	}
	if s := host.String(); strings.Count(s, "image ") != 1 {
		t.Errorf("after the sweep:\n%s", s)
	}
}

// A name that looks like an id would be taken for one.
func TestIDsAsNames(t *testing.T) {
	_, store, c := begin(t, nil)
	img, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	for _, name := range []string{img.ID, banger.ShortID(img.ID), "0123456789abc"} {
		_, err := bring(t, c, name, "another tar")
		if want(t, err, banger.CodeInvalid); !strings.Contains(err.Error(), "looks like an id") {
			t.Error(err)
		}
	}
	_, err = bring(t, c, "deadbeef", "another tar")
	want(t, err, "")
	other := banger.Image{ID: strings.Repeat("b", 64), Name: img.ID} // from before
	want(t, store.PutImage(t.Context(), other, false), "")
	if got, _, err := c.Resolve(t.Context(), img.ID, "cloud", nil); err != nil || got.ID != img.ID {
		t.Errorf("an id means the image named like it: %s, %v", got.ID, err)
	}
}

// Who takes an image's last name takes its file away.
func TestReplace(t *testing.T) {
	host, store, c := begin(t, nil)
	old, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	kernel, err := c.PullKernel(t.Context(), "cloud", false, nil)
	want(t, err, "")
	replace := func(tar string) banger.Image {
		img, err := c.ImportImage(t.Context(), "debian", "test", true, strings.NewReader(tar), nil)
		want(t, err, "")
		return img
	}
	replace("a tar")
	vm := banger.VM{ID: "111111111111", State: banger.Creating, ImageID: old.ID, KernelID: kernel.ID}
	want(t, store.Commit(t.Context(), []banger.VM{vm}, nil, false), "")
	next := replace("another tar") // the first has a user
	last := replace("a third tar")
	if s := host.String(); !strings.Contains(s, old.ID) || strings.Contains(s, next.ID) || !strings.Contains(s, last.ID) {
		t.Errorf("kept: %s, %s; gone: %s; in:\n%s", old.ID, last.ID, next.ID, s)
	}
}

// A kernel goes by its id or a name that it alone has, not while a VM uses it; one
// that a death left without a record is rid of its files.
func TestDeleteKernel(t *testing.T) {
	_, store, c := begin(t, nil)
	img, err := bring(t, c, "debian", "a tar")
	want(t, err, "")
	old, err := c.PullKernel(t.Context(), "cloud", false, nil)
	want(t, err, "")
	newer := banger.Kernel{ID: "dddddddddddd", Name: "cloud", Created: time.Now().Add(time.Hour)}
	want(t, store.PutKernel(t.Context(), newer), "")
	vm := banger.VM{ID: "111111111111", State: banger.Creating, ImageID: img.ID, KernelID: old.ID}
	want(t, store.Commit(t.Context(), []banger.VM{vm}, nil, false), "")
	for ref, id := range map[string]string{"cloud": newer.ID, old.ID: old.ID, old.ID[:4]: old.ID, newer.ID: newer.ID} {
		if k, err := c.Kernel(t.Context(), ref); err != nil || k.ID != id {
			t.Errorf("%s is kernel %+v, %v", ref, k, err)
		}
	}
	_, err = c.Kernel(t.Context(), "nosuch")
	want(t, err, banger.CodeNotFound)
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
	want(t, store.Commit(t.Context(), []banger.VM{vm}, nil, false), "")
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
		_, err := c.PullKernel(context.Background(), "cloud", false, nil)
		busy <- err
	}()
	want(t, <-busy, banger.CodeConflict)
	want(t, <-busy, "")
}

type pulling struct {
	banger.Kernels
	meanwhile func()
}

func (p pulling) Pull(ctx context.Context, name string, update bool, progress banger.Progress) (banger.Kernel, error) {
	p.meanwhile()
	return p.Kernels.Pull(ctx, name, update, progress)
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

// What isn't here is named, if it can be had by its name.
func TestMissing(t *testing.T) {
	_, _, c := begin(t, nil)
	c.DefaultImage = "debian"
	c.KernelCost = func(name string) (banger.Missing, bool) {
		return banger.Missing{Kind: "kernel", Name: name}, name == "cloud"
	}
	lacks := func(image, kernel string, code banger.Code, names ...string) {
		t.Helper()
		list, err := c.Missing(t.Context(), image, kernel)
		want(t, err, code)
		var got []string
		for _, m := range list {
			got = append(got, m.Name)
		}
		if !slices.Equal(got, names) {
			t.Errorf("image %q, kernel %q: %q, want %q", image, kernel, got, names)
		}
	}
	lacks("", "", banger.CodeNotFound) // no image can be built
	c.ImageCost = func(name string) (banger.Missing, bool) {
		return banger.Missing{Kind: "image", Name: name}, name == "debian"
	}
	lacks("", "", "", "cloud", "debian")
	lacks("mine", "", banger.CodeNotFound)
	lacks("", "mine", banger.CodeNotFound)
	img, err := bring(t, c, "mine", "a tar")
	want(t, err, "")
	lacks("mine", "", "", "cloud")
	lacks(img.ID[:6], "cloud", "", "cloud")
	k, err := c.PullKernel(t.Context(), "cloud", false, nil)
	want(t, err, "")
	lacks("", "", "", "debian")
	lacks("mine", k.ID, "")
}
