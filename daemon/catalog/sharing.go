package catalog

import (
	"context"
	"io"
	"slices"

	"banger"
)

// Disks lends the disk of a stopped VM.
type Disks interface {
	UseDisk(ctx context.Context, ref, doing string, use func(vm banger.VM, disk io.ReaderAt, size int64) error) error
}

// Sharing implements banger.ImageSharing for the images of a catalog. Its fields are set by
// the wiring.
type Sharing struct {
	Of      *Catalog
	Formats banger.ImageFormats
	VMs     Disks
}

var _ banger.ImageSharing = Sharing{}

// TagImage gives an image another name.
func (s Sharing) TagImage(ctx context.Context, ref, name string, replace bool) (banger.Image, error) {
	doing := "tag image " + ref
	img, err := s.Of.image(ctx, ref)
	if err == nil {
		err = checkName(name)
	}
	if err == nil && img.Name != name {
		err = s.Of.nameFree(ctx, name, replace)
	}
	if err != nil {
		return banger.Image{}, banger.During(doing, err)
	}
	img.Name = name
	img, err = s.Of.record(ctx, img, replace, doing)
	return shown(img), err
}

func errFormats() error {
	return banger.Errorf(banger.CodeInvalid, "this daemon gives no images away")
}

// shown is an image without what only the daemon needs.
func shown(img banger.Image) banger.Image {
	img.Config = img.Config.Shown()
	return img
}

// ImageHistory returns the steps by which an image was made.
func (s Sharing) ImageHistory(ctx context.Context, ref string) ([]banger.ImageStep, error) {
	img, err := s.Of.image(ctx, ref)
	if err != nil {
		return nil, err
	}
	if s.Formats == nil {
		return nil, errFormats()
	}
	return s.Formats.History(img), nil
}

// ExportImage writes an image as a tar.
func (s Sharing) ExportImage(ctx context.Context, what banger.Export, w io.Writer, p banger.Progress) error {
	doing := "export image " + what.Image
	img, err := s.Of.image(ctx, what.Image)
	if err == nil && !slices.Contains([]string{"", banger.FormatOCI, banger.FormatDocker}, what.Format) {
		err = banger.Errorf(banger.CodeInvalid, "there is no format %q", what.Format).WithHint("there are oci and docker")
	}
	if err == nil && s.Formats == nil {
		err = errFormats()
	}
	if err != nil {
		return banger.During(doing, err)
	}
	what.Image = img.Name
	return banger.During(doing, s.Formats.Export(ctx, img, what, w, p))
}

// PushImage gives an image to a registry.
func (s Sharing) PushImage(ctx context.Context, what banger.Push, p banger.Progress) (banger.Pushed, error) {
	img, err := s.Of.image(ctx, what.Image)
	if err == nil && s.Formats == nil {
		err = errFormats()
	}
	if err != nil {
		return banger.Pushed{}, banger.During("push image "+what.Image, err)
	}
	if what.Ref == "" {
		what.Ref = img.Name
	}
	pushed, err := s.Formats.Push(ctx, img, what, p)
	return pushed, banger.During("push image "+what.Image, err)
}

// SaveImage makes an image of a stopped VM.
func (s Sharing) SaveImage(ctx context.Context, what banger.Save, p banger.Progress) (img banger.Image, err error) {
	if err := checkName(what.Name); err != nil {
		return img, banger.During("save vm "+what.VM, err)
	}
	if err := s.Of.nameFree(ctx, what.Name, what.Replace); err != nil {
		return img, banger.During("save vm "+what.VM, err)
	}
	err = s.VMs.UseDisk(ctx, what.VM, "save", func(vm banger.VM, disk io.ReaderAt, size int64) error {
		base, ok := s.Of.made(ctx, vm.ImageID)
		if s.Formats == nil {
			return errFormats()
		}
		if !ok {
			return banger.Errorf(banger.CodeNotFound, "image %s isn't here any more", vm.ImageID)
		}
		what.VM = vm.Spec.Name
		made, err := s.Formats.Save(ctx, base, disk, size, what, p)
		if err != nil {
			return err
		}
		made.Name, made.Source = what.Name, "vm "+vm.Spec.Name+" of "+vm.Spec.Image
		img, err = s.Of.record(ctx, made, what.Replace, "save vm "+vm.Spec.Name)
		return err
	})
	return shown(img), err
}
