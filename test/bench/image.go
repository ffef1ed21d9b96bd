package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"banger"
)

// The disk of an image template, and a VM's, in their directories.
const (
	templateDisk = "disk"
	vmDisk       = "disk.ext4"
)

// imageTemplate is warm for an image whose init is up: the floor is a plain
// hypervisor that restores the same image template on a copy of the template's disk, which
// banger has to make while the clock runs and the floor has beforehand.
//
// The user's own image template would be replaced, so where there is one, of
// whatever --after, it is what is measured; one that was made for this goes.
func (b *bench) imageTemplate(ctx context.Context) (err error) {
	templates := b.client.Templates()
	probe, err := b.client.VMs().CreateVM(ctx, kind(b.hypervisor), false, nil)
	if err != nil {
		return err
	}
	image := probe.Spec.Image
	if err := b.client.VMs().DeleteVM(ctx, probe.ID); err != nil {
		return err
	}
	have, err := templates.Templates(ctx)
	if err != nil {
		return err
	}
	for _, t := range have {
		if t.Image == image && t.DiskMiB == probe.Spec.DiskMiB && t.Hypervisor == b.hypervisor && t.Net == probe.Spec.Net {
			fmt.Printf("of %s, after %q, made %s\n", image, cmp.Or(t.After, "nothing"), t.Created.Format(time.RFC3339))
			return b.restored(ctx, image)
		}
	}
	made, err := templates.CreateTemplate(ctx, banger.TemplateSpec{Hypervisor: b.hypervisor, Net: probe.Spec.Net, Image: image}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, templates.DeleteTemplate(ctx, made.ID)) }()
	return b.restored(ctx, image)
}

// copyDisk gives a VM that was never started a copy of the image template's disk.
func (b *bench) copyDisk(f fork, id string) error {
	from, to := filepath.Join(f.dir, templateDisk), filepath.Join(b.vmDir(id), vmDisk)
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
