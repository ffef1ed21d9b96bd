package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger"
)

// Disks is a banger.Disks and a banger.Cloner on the fake host.
type Disks struct{ l *Life }

var _ banger.Cloner = (*Disks)(nil)

// Disks returns this life's.
func (l *Life) Disks() *Disks { return &Disks{l} }

// Create is the step "create disk", after the pause "create". A disk that is there
// stays as it is.
func (d *Disks) Create(ctx context.Context, dir string, sizeMiB int) (string, error) {
	return d.make(ctx, "create", dir, func() (disk, error) { return disk{sizeMiB: sizeMiB}, nil })
}

// Clone is the step "clone disk", after the pause "clone". The new disk is as large
// as the file from says in its first word, in MiB.
func (d *Disks) Clone(ctx context.Context, dir, from string) (string, error) {
	return d.make(ctx, "clone", dir, func() (disk, error) {
		text, err := os.ReadFile(from)
		if err != nil {
			return disk{}, err
		}
		made := disk{from: from}
		_, err = fmt.Sscan(string(text), &made.sizeMiB)
		return made, err
	})
}

func (d *Disks) make(ctx context.Context, how, dir string, made func() (disk, error)) (string, error) {
	h := d.l.host
	path := filepath.Join(dir, "disk.ext4")
	if err := d.l.wait(ctx, filepath.Base(dir), how); err != nil {
		return path, err
	}
	return path, errors.Join(ctx.Err(), d.l.step(filepath.Base(dir), how+" disk", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, ok := h.disks[dir]; ok {
			return nil
		}
		fresh, err := made()
		if err != nil {
			return err
		}
		h.serials++
		fresh.serial = h.serials
		h.disks[dir] = fresh
		return nil
	}))
}

// Grow is the step "grow disk".
func (d *Disks) Grow(ctx context.Context, dir string, sizeMiB int) error {
	h := d.l.host
	return errors.Join(ctx.Err(), d.l.step(filepath.Base(dir), "grow disk", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		old, ok := h.disks[dir]
		if !ok {
			return banger.Errorf(banger.CodeNotFound, "no disk in %s", dir)
		}
		if sizeMiB < old.sizeMiB {
			return banger.Errorf(banger.CodeInvalid, "a disk of %d MiB can't shrink to %d", old.sizeMiB, sizeMiB)
		}
		old.sizeMiB = sizeMiB
		h.disks[dir] = old
		return nil
	}))
}

// Remove is the step "remove disk".
func (d *Disks) Remove(_ context.Context, dir string) error {
	h := d.l.host
	return d.l.step(filepath.Base(dir), "remove disk", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.disks, dir)
		return nil
	})
}

// Attach is the steps "attach loops" and "attach dm".
func (d *Disks) Attach(ctx context.Context, id, dir string) (string, banger.Handles, error) {
	h := d.l.host
	held := banger.Handles{DMName: "banger-" + id, DMDev: "/dev/mapper/banger-" + id}
	err := errors.Join(ctx.Err(), d.l.step(id, "attach loops", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, ok := h.disks[dir]; !ok {
			return banger.Errorf(banger.CodeNotFound, "no disk in %s", dir)
		}
		held.COWLoop, held.BaseLoop = h.need("loop", "", id), h.need("loop", baseName, "")
		return nil
	}))
	if err == nil {
		err = d.l.step(id, "attach dm", func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.need("dm", held.DMName, id)
			return nil
		})
	}
	if err != nil {
		return "", banger.Handles{}, err
	}
	return held.DMDev, held, nil
}

// Detach is the steps "detach dm" and "detach loops", after the pause "detach", in
// which somebody is still using the disk. The base stays: others use it.
func (d *Disks) Detach(ctx context.Context, id, _ string, held banger.Handles) (banger.Handles, error) {
	h := d.l.host
	if err := d.l.wait(ctx, id, "detach"); err != nil {
		return held, err
	}
	left := held
	err := d.l.step(id, "detach dm", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.guests[id] != nil {
			return banger.Errorf(banger.CodeUnavailable, "device banger-%s is busy", id)
		}
		h.drop("dm", id)
		left.DMName, left.DMDev, left.BaseLoop = "", "", ""
		return nil
	})
	if err == nil {
		err = d.l.step(id, "detach loops", func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.drop("loop", id)
			left = banger.Handles{}
			return nil
		})
	}
	return left, err
}

// Images is a banger.Images on the fake host.
type Images struct{ l *Life }

// Images returns this life's.
func (l *Life) Images() *Images { return &Images{l} }

// Import is the step "import image". It takes any bytes.
func (i *Images) Import(ctx context.Context, tar io.Reader, _ banger.Progress) (banger.Image, error) {
	h := i.l.host
	sum := sha256.New()
	n, err := io.Copy(sum, tar)
	if err != nil {
		return banger.Image{}, err
	}
	img := banger.Image{ID: hex.EncodeToString(sum.Sum(nil)), Size: n}
	return img, errors.Join(ctx.Err(), i.l.Step("import image", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.images[img.ID] = true
		return nil
	}))
}

// Path returns where an image would be.
func (i *Images) Path(id string) (string, error) {
	h := i.l.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.images[id] {
		return "", banger.Errorf(banger.CodeNotFound, "no image file %s", id)
	}
	return "/images/" + id + ".erofs", nil
}

// Remove is the step "remove image".
func (i *Images) Remove(id string) error {
	h := i.l.host
	return i.l.Step("remove image", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.images, id)
		return nil
	})
}

// Sweep is the step "sweep images".
func (i *Images) Sweep(keep []string) error {
	h := i.l.host
	return i.l.Step("sweep images", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for id := range h.images {
			if !slices.Contains(keep, id) {
				delete(h.images, id)
			}
		}
		return nil
	})
}

// Kernels is a banger.Kernels on the fake host: it has any kernel asked for. The one called
// "uml" is a program.
type Kernels struct{ l *Life }

func kernelID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:6])
}

// Kernels returns this life's.
func (l *Life) Kernels() *Kernels { return &Kernels{l} }

// Pull is the step "pull kernel".
func (k *Kernels) Pull(ctx context.Context, name string, _ bool, _ banger.Progress) (banger.Kernel, error) {
	return banger.Kernel{ID: kernelID(name), Name: name, Version: "6.1.0-fake"},
		errors.Join(ctx.Err(), k.l.Step("pull kernel", func() error { return nil }))
}

// Import is the step "import kernel". What is read is kept nowhere.
func (k *Kernels) Import(ctx context.Context, name, source string, tar io.Reader, _ banger.Progress) (banger.Kernel, error) {
	data, err := io.ReadAll(tar)
	if err == nil && len(data) < 1024 {
		err = banger.Errorf(banger.CodeInvalid, "entry 0: %w", io.ErrUnexpectedEOF)
	}
	name = cmp.Or(name, "6.1.0-fake")
	return banger.Kernel{ID: kernelID(name), Name: name, Version: "6.1.0-fake", Source: source, Created: time.Now(), Imported: true},
		errors.Join(ctx.Err(), err, k.l.Step("import kernel", func() error { return nil }))
}

// Offers is one kernel, which isn't here.
func (k *Kernels) Offers() ([]banger.KernelOffer, error) {
	return []banger.KernelOffer{{Name: "debian-12-cloud", Release: "bookworm", Package: "linux-image-fake", Source: "http://fake/debian", Download: 1 << 20, Disk: 4 << 20}}, nil
}

// Remove is the step "remove kernel".
func (k *Kernels) Remove(string) (bool, error) {
	return false, k.l.Step("remove kernel", func() error { return nil })
}

// Boot names files that aren't there.
func (k *Kernels) Boot(ctx context.Context, id string) (banger.BootFiles, error) {
	dir := "/kernels/" + id + "/"
	files := banger.BootFiles{Vmlinux: dir + "vmlinux", Initramfs: dir + "initramfs", Modules: dir + "modules"}
	if id == kernelID("uml") {
		files.Hypervisor = "uml"
	}
	return files, ctx.Err()
}
