// Package catalog keeps images and kernels: their files by the drivers it is
// given, their names in the store. It implements banger.KernelService and, but for
// builds, banger.ImageService; for the engine it turns what a user named into what
// a machine boots from.
//
// It knows nothing of how an image is made, where a kernel comes from, or what a VM does
// with either. The store says whether a VM uses one.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
)

// Catalog implements banger.KernelService and most of banger.ImageService. Its exported fields are set by the wiring
// and never change after. All methods may be called concurrently.
type Catalog struct {
	Store        banger.Store
	ImageFiles   banger.Images
	Registries   banger.Registries
	KernelFiles  banger.Kernels
	Default      string // name of the default kernel
	DefaultImage string // name of the default image
	// KernelCost and ImageCost say what it takes to fetch or build one by its name; false:
	// it can't be had so. Nil: none can.
	KernelCost, ImageCost func(name string) (banger.Missing, bool)
	Now                   func() time.Time

	publish sync.Mutex   // held while an image's file and record must agree
	pulling sync.RWMutex // for writing while a kernel is deleted: its files and record must agree
}

var _ banger.KernelService = (*Catalog)(nil)

// ImportImage reads a root tar and names the image made of it.
func (c *Catalog) ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
	img, err := c.Add(ctx, banger.Image{Name: name, Source: source}, replace, tar, p)
	return shown(img), err
}

// Add reads a root tar and records the image made of it with img's name, source
// and lock.
func (c *Catalog) Add(ctx context.Context, img banger.Image, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
	name := img.Name
	doing := "import image " + name
	if err := checkName(name); err != nil {
		return banger.Image{}, banger.During(doing, err)
	}
	if err := c.nameFree(ctx, name, replace); err != nil {
		return banger.Image{}, banger.During(doing, err) // checked before the work, which takes long
	}
	made, err := c.ImageFiles.Import(ctx, tar, p)
	if err != nil {
		return banger.Image{}, banger.During(doing, err)
	}
	img.ID, img.Size, img.Entries, img.Config = made.ID, made.Size, made.Entries, made.Config
	return c.record(ctx, img, replace, doing)
}

// PullImage gets an image from a registry.
func (c *Catalog) PullImage(ctx context.Context, what banger.Pull, p banger.Progress) (banger.Image, error) {
	doing := "pull image " + what.Ref
	if what.Name != "" {
		if err := checkName(what.Name); err != nil {
			return banger.Image{}, banger.During(doing, err)
		}
	}
	if c.Registries == nil {
		_, err := c.image(ctx, what.Ref)
		return banger.Image{}, banger.During(doing, cmp.Or(err, error(banger.Errorf(banger.CodeUnavailable, "this daemon asks no registry"))))
	}
	img, err := c.Registries.Pull(ctx, what, func(id string) (banger.Image, bool) { return c.made(ctx, id) }, p)
	if err == nil {
		img.Name, img.Source = cmp.Or(what.Name, img.Name), what.Ref
		err = checkName(img.Name)
	}
	if err != nil {
		return banger.Image{}, banger.During(doing, err)
	}
	img, err = c.record(ctx, img, true, doing)
	return shown(img), err
}

// made returns a record of an image whose file is here.
func (c *Catalog) made(ctx context.Context, id string) (banger.Image, bool) {
	list, err := c.Store.Images(ctx)
	i := slices.IndexFunc(list, func(i banger.Image) bool { return i.ID == id })
	if err != nil || i < 0 {
		return banger.Image{}, false
	}
	_, err = c.ImageFiles.Path(id)
	return list[i], err == nil
}

// record names an image whose file was made.
func (c *Catalog) record(ctx context.Context, img banger.Image, replace bool, doing string) (banger.Image, error) {
	name := img.Name
	img.Created = c.Now()
	c.publish.Lock()
	defer c.publish.Unlock()
	if _, err := c.ImageFiles.Path(img.ID); err != nil {
		return banger.Image{}, banger.During(doing, banger.Errorf(banger.CodeConflict, "the same image was deleted meanwhile: %w", err).
			WithHint("import it again"))
	}
	old, err := c.named(ctx, name)
	if err == nil {
		err = c.Store.PutImage(ctx, img, replace)
	}
	if err != nil {
		return banger.Image{}, banger.During(doing, errors.Join(err, c.dropUnnamed(ctx, img.ID)))
	}
	if old.ID == img.ID {
		return img, nil
	}
	return img, banger.During(doing, c.dropUnnamed(ctx, old.ID)) // the replaced image has no name, so no list would show it
}

func (c *Catalog) nameFree(ctx context.Context, name string, replace bool) error {
	if replace {
		return nil
	}
	old, err := c.named(ctx, name)
	if err != nil {
		return err
	}
	if old.Name != "" {
		return banger.Errorf(banger.CodeConflict, "an image named %q exists", name).
			WithHint("choose another name, or replace it with --replace; VMs made from the old one keep it")
	}
	return nil
}

// named returns the image of a name; the zero Image if there is none.
func (c *Catalog) named(ctx context.Context, name string) (banger.Image, error) {
	list, err := c.Store.Images(ctx)
	for _, i := range list {
		if i.Name == name {
			return i, err
		}
	}
	return banger.Image{}, err
}

// Images returns all image names, by name, without those of unfinished images, and without
// locks and configs.
func (c *Catalog) Images(ctx context.Context) ([]banger.Image, error) {
	list, err := c.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(i banger.Image) bool { return unfinished(i) })
	for i := range list {
		list[i].Lock, list[i].Config = nil, nil
	}
	return list, nil
}

// Image returns one image with its lock.
func (c *Catalog) Image(ctx context.Context, ref string) (banger.Image, error) {
	img, err := c.image(ctx, ref)
	return shown(img), err
}

// DeleteImage removes a name, and the image with its last one.
func (c *Catalog) DeleteImage(ctx context.Context, ref string) error {
	img, err := c.image(ctx, ref)
	if err != nil {
		return err
	}
	c.publish.Lock()
	defer c.publish.Unlock()
	if err := c.Store.DeleteImage(ctx, img.Name); err != nil {
		return banger.During("delete image "+ref, err)
	}
	return banger.During("delete image "+ref, c.dropUnnamed(ctx, img.ID))
}

// dropUnnamed removes the file of an image that has no name any more. c.publish
// is held.
func (c *Catalog) dropUnnamed(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	list, err := c.Store.Images(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(i banger.Image) bool { return i.ID == id }) {
		return nil
	}
	return c.ImageFiles.Remove(id)
}

// PullKernel fetches a kernel by name; empty: the default one.
func (c *Catalog) PullKernel(ctx context.Context, name string, update bool, p banger.Progress) (banger.Kernel, error) {
	if name == "" {
		name = c.Default
	}
	c.pulling.RLock()
	defer c.pulling.RUnlock()
	k, err := c.KernelFiles.Pull(ctx, name, update, p)
	if err != nil {
		return k, banger.During("pull kernel "+name, err)
	}
	if k.Created.IsZero() {
		k.Created = c.Now()
	}
	return k, banger.During("pull kernel "+name, c.Store.PutKernel(ctx, k))
}

// ImportKernel makes a kernel of what its user brings.
func (c *Catalog) ImportKernel(ctx context.Context, name, source string, tar io.Reader, p banger.Progress) (banger.Kernel, error) {
	doing := strings.TrimSpace("import kernel " + name)
	c.pulling.RLock()
	defer c.pulling.RUnlock()
	k, err := c.KernelFiles.Import(ctx, name, source, tar, p)
	if err != nil {
		return k, banger.During(doing, err)
	}
	return k, banger.During(doing, c.Store.PutKernel(ctx, k))
}

// AvailableKernels returns the kernels that can be fetched.
func (c *Catalog) AvailableKernels(context.Context) ([]banger.KernelOffer, error) {
	return c.KernelFiles.Offers()
}

// Kernels returns all kernels, oldest first.
func (c *Catalog) Kernels(ctx context.Context) ([]banger.Kernel, error) { return c.Store.Kernels(ctx) }

// Kernel returns one kernel.
func (c *Catalog) Kernel(ctx context.Context, ref string) (banger.Kernel, error) {
	kernels, err := c.Store.Kernels(ctx)
	if err != nil {
		return banger.Kernel{}, err
	}
	for _, is := range []func(banger.Kernel) bool{
		func(k banger.Kernel) bool { return k.ID == ref }, func(k banger.Kernel) bool { return k.Name == ref },
	} {
		for _, k := range slices.Backward(kernels) {
			if is(k) {
				return k, nil
			}
		}
	}
	id, err := c.kernelID(ctx, ref)
	for _, k := range kernels {
		if k.ID == id {
			return k, nil
		}
	}
	if err == nil {
		err = banger.Errorf(banger.CodeNotFound, "no kernel %q", ref).WithHint("`banger kernel list` lists the kernels")
	}
	return banger.Kernel{}, err
}

// DeleteKernel removes a kernel: first its record, which can't be removed while a VM uses
// it, then its files. If the daemon dies in between, another call with the id removes them.
func (c *Catalog) DeleteKernel(ctx context.Context, ref string) error {
	doing := "delete kernel " + ref
	if !c.pulling.TryLock() { // a fetch may take minutes
		return banger.During(doing, banger.Errorf(banger.CodeConflict, "a kernel is being fetched").WithHint("try again when that is done"))
	}
	defer c.pulling.Unlock()
	id, err := c.kernelID(ctx, ref)
	if err != nil {
		return banger.During(doing, err)
	}
	missing := c.Store.DeleteKernel(ctx, id)
	if missing != nil && banger.CodeOf(missing) != banger.CodeNotFound {
		return banger.During(doing, missing)
	}
	found, err := c.KernelFiles.Remove(id)
	if err == nil && !found {
		err = missing
	}
	return banger.During(doing, err)
}

func (c *Catalog) kernelID(ctx context.Context, ref string) (string, error) {
	kernels, err := c.Store.Kernels(ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, k := range kernels {
		if k.ID == ref {
			return ref, nil
		}
		if k.Name == ref || len(ref) >= 4 && strings.HasPrefix(k.ID, ref) {
			ids = append(ids, k.ID)
		}
	}
	switch len(ids) {
	case 0:
		return ref, nil // without a record there may still be files
	case 1:
		return ids[0], nil
	}
	return "", banger.Errorf(banger.CodeConflict, "%q names %d kernels: %s", ref, len(ids), strings.Join(ids, ", ")).WithHint("use the id of one")
}

// Resolve finds the image and the kernel of a new VM, each by name or id; a
// kernel that isn't here is fetched.
func (c *Catalog) Resolve(ctx context.Context, image, kernel string, p banger.Progress) (img banger.Image, kernelID string, err error) {
	img, err = c.image(ctx, image)
	if err != nil {
		return img, "", err
	}
	kernels, err := c.Store.Kernels(ctx)
	if err != nil {
		return img, "", err
	}
	for _, k := range slices.Backward(kernels) {
		if k.Name == kernel || k.ID == kernel {
			return img, k.ID, nil
		}
	}
	k, err := c.PullKernel(ctx, kernel, false, p)
	return img, k.ID, err
}

// Missing says what a VM of this image and this kernel needs that isn't here.
func (c *Catalog) Missing(ctx context.Context, image, kernel string) ([]banger.Missing, error) {
	image, kernel = cmp.Or(image, c.DefaultImage), cmp.Or(kernel, c.Default)
	var list []banger.Missing
	kernels, err := c.Store.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(kernels, func(k banger.Kernel) bool { return k.Name == kernel || k.ID == kernel }) {
		m, ok := cost(c.KernelCost, kernel)
		if !ok {
			return nil, banger.Errorf(banger.CodeNotFound, "no kernel %q", kernel).
				WithHint("`banger kernel list` shows what is here; `banger kernel pull debian-12-cloud` fetches Debian's")
		}
		list = append(list, m)
	}
	_, err = c.image(ctx, image)
	if banger.CodeOf(err) != banger.CodeNotFound {
		return list, err
	}
	m, ok := cost(c.ImageCost, image)
	if !ok {
		return nil, err
	}
	return append(list, m), nil
}

func cost(of func(string) (banger.Missing, bool), name string) (banger.Missing, bool) {
	if of == nil {
		return banger.Missing{}, false
	}
	return of(name)
}

// Files returns what a machine of this image and this kernel boots from.
func (c *Catalog) Files(ctx context.Context, imageID, kernelID string) (image string, boot banger.BootFiles, err error) {
	if boot, err = c.KernelFiles.Boot(ctx, kernelID); err != nil {
		return "", boot, fmt.Errorf("kernel %s: %w", kernelID, err)
	}
	if image, err = c.ImageFiles.Path(imageID); err != nil {
		return "", boot, fmt.Errorf("image %s: %w", imageID, err)
	}
	return image, boot, nil
}

// KernelVersion returns the release (uname -r) of a recorded kernel.
func (c *Catalog) KernelVersion(ctx context.Context, id string) (string, error) {
	kernels, err := c.Store.Kernels(ctx)
	if err != nil {
		return "", err
	}
	for _, k := range kernels {
		if k.ID == id {
			return k.Version, nil
		}
	}
	return "", banger.Errorf(banger.CodeNotFound, "kernel %s isn't recorded", id)
}

// image finds an image by name, id, or four digits and more of one.
func (c *Catalog) image(ctx context.Context, ref string) (banger.Image, error) {
	list, err := c.Store.Images(ctx)
	if err != nil {
		return banger.Image{}, err
	}
	// An id first: an older image may have another one's id as its name.
	for _, is := range []func(banger.Image) bool{
		func(i banger.Image) bool { return i.ID == ref }, func(i banger.Image) bool { return i.Name == ref },
		func(i banger.Image) bool { return i.Name == pulledName(ref) },
	} {
		if i := slices.IndexFunc(list, is); i >= 0 {
			return list[i], nil
		}
	}
	var found []banger.Image
	for _, i := range list {
		if len(ref) >= 4 && strings.HasPrefix(i.ID, ref) && (len(found) == 0 || found[0].ID != i.ID) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return banger.Image{}, banger.Errorf(banger.CodeNotFound, "no image %q", ref).
			WithHint("`banger image list` shows what is here; `banger image build` makes debian-12 of packages, `banger image import --name NAME TAR` makes one of a root file system")
	}
	return banger.Image{}, banger.Errorf(banger.CodeConflict, "%q names %d images", ref, len(found)).WithHint("use more digits of the id")
}

// pulledName is the name that a pull of a reference gives: that of docker's own registry
// is left out, and there always is a tag.
func pulledName(ref string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(ref, "index."), "docker.io/"), "library/")
	if !strings.ContainsAny(name[strings.LastIndex(name, "/")+1:], ":@") {
		name += ":latest"
	}
	return name
}

// sweeper is an Images that can remove all files but those of given ids. A daemon that died
// between publishing an image and recording it leaves such a file.
type sweeper interface {
	Sweep(keep []string) error
}

// Sweep removes unfinished images that a daemon left when it died, and, if ImageFiles is a
// sweeper, files of images without a name. It must not be called during an import.
func (c *Catalog) Sweep(ctx context.Context) error {
	if err := c.DropUnfinished(ctx); err != nil {
		return err
	}
	s, ok := c.ImageFiles.(sweeper)
	if !ok {
		return nil
	}
	list, err := c.Store.Images(ctx)
	if err != nil {
		return err
	}
	var keep []string
	for _, i := range list {
		keep = append(keep, i.ID)
	}
	return s.Sweep(keep)
}

// DropUnfinished removes what is left of builds whose daemon died, but for an image that
// its VM still uses: that one goes with the next call. No build may be under way.
func (c *Catalog) DropUnfinished(ctx context.Context) error {
	list, err := c.Store.Images(ctx)
	if err != nil {
		return err
	}
	for _, i := range list {
		if !unfinished(i) {
			continue
		}
		if err := c.DeleteImage(ctx, i.Name); err != nil && banger.CodeOf(err) != banger.CodeConflict {
			return err
		}
	}
	return nil
}

// unfinished reports whether an image is a step of a build. Older records show that only by
// name and source.
func unfinished(i banger.Image) bool {
	id, ok := strings.CutPrefix(i.Name, banger.UnfinishedImage)
	return i.Unfinished || ok && banger.IsID(id) && i.Source == "packages to be configured"
}

// checkName refuses names that look like an id, or that are hard to type.
func checkName(s string) error {
	ok := len(s) > 0 && len(s) <= 128
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (alnum || i > 0 && i < len(s)-1 && strings.ContainsRune("._-/:@", rune(c)))
	}
	if !ok {
		return banger.Errorf(banger.CodeInvalid, "%q can't be an image's name", s).
			WithHint("use letters, digits and . _ - / : @ with a letter or digit first and last, at most 128")
	}
	if len(s) >= 12 && strings.Trim(s, "0123456789abcdef") == "" {
		return banger.Errorf(banger.CodeInvalid, "%q can't be an image's name: it looks like an id", s).
			WithHint("only ids are made of twelve or more of 0-9 and a-f: put another letter into the name")
	}
	return nil
}
