package template

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/guest"
)

// diskName is the disk of an image template, in the state that its guest's memory expects.
const diskName = "disk"

// Bounds of making an image template. The user's command may take any time.
const (
	initWait  = 5 * time.Minute // for the image's init to have started everything
	initPause = 200 * time.Millisecond
	maxWords  = 2 << 10 // bytes of output shown of a command that failed
)

// kind returns the kind of a template of this original: a digest of its machine's kind and,
// for an image template, of the image and the disk's size.
func (orig Original) kind(machine string) string {
	if orig.Image == nil {
		return machine
	}
	return imageKind(machine, orig.Image.ID, orig.Image.DiskMiB)
}

func imageKind(machine, image string, diskMiB int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "image %s %s %d", machine, image, diskMiB))
	return hex.EncodeToString(sum[:])
}

// freezeImage boots an image on a disk of its own, waits for its init, runs the user's
// command, and captures the machine and its disk.
func freezeImage(ctx context.Context, hv banger.Hypervisor, w workshop, orig Original, within time.Duration, p banger.Progress) error {
	m, err := w.machine(orig)
	if err != nil {
		return err
	}
	disk, err := orig.Image.Disks.Create(ctx, m.Dir, orig.Image.DiskMiB)
	if err != nil {
		return err
	}
	m.Drives[len(m.Drives)-1].Path = disk
	tell(p, "boot", orig.Image.Name)
	h, err := hv.Start(ctx, m)
	if err != nil {
		return err
	}
	c := client(hv, m)
	if err := settle(ctx, &c, orig.Image.Identity, within, p); err != nil {
		return err
	}
	if orig.Image.After != "" {
		tell(p, "after", orig.Image.After)
		if err := after(ctx, &c, orig.Image.After); err != nil {
			return err
		}
	}
	tell(p, "freeze", "")
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := capture(ctx, hv, m, h, w.out()); err != nil {
		return err
	}
	kept := filepath.Join(w.out(), diskName)
	if err := os.Rename(disk, kept); err != nil {
		return err
	}
	f, err := os.Open(kept)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// settle gives the guest a temporary identity and waits until its init has started all
// services.
func settle(ctx context.Context, c *guest.Client, id guest.Identity, within time.Duration, p banger.Progress) error {
	boot, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if _, err := c.Configure(boot, id); err != nil {
		return err
	}
	tell(p, "init", "")
	ctx, cancel = context.WithTimeout(ctx, initWait)
	defer cancel()
	for {
		h, err := c.Health(ctx)
		if err != nil {
			return err
		}
		switch h.Init {
		case "running", "degraded", "none":
			return nil
		}
		select {
		case <-time.After(initPause):
		case <-ctx.Done():
			return banger.Errorf(banger.CodeTimeout, "the image's init is still %q after %s", h.Init, initWait)
		}
	}
}

// after runs the user's command in the guest.
func after(ctx context.Context, c *guest.Client, command string) error {
	var out words
	st, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", command}}, guest.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		return err
	}
	if st.Code != 0 {
		return banger.Errorf(banger.CodeInvalid, "the command in the image ended with status %d", st.Code).
			WithHint("its last words: %s", bytes.TrimSpace(out.last))
	}
	return nil
}

// words keeps the end of what is written to it.
type words struct{ last []byte }

func (w *words) Write(p []byte) (int, error) {
	w.last = append(w.last, p...)
	w.last = w.last[max(0, len(w.last)-maxWords):]
	return len(p), nil
}

// Image returns the image template for new machines of an image and a disk size,
// and the file whose copy is to be their disk.
func (s *Store) Image(ctx context.Context, hypervisor, image string, diskMiB int, m banger.Machine) (id, disk string, err error) {
	if s.Off {
		return "", "", banger.Errorf(banger.CodeUnavailable, "warm starts are off in config.toml")
	}
	_, c, err := s.capturer(hypervisor)
	if err == nil && onHost(m) {
		err = errOnHost
	}
	if err != nil {
		return "", "", err
	}
	kind, err := c.Kind(ctx, m)
	if err != nil {
		return "", "", err
	}
	t, err := s.fit(imageKind(kind, image, diskMiB))
	if err != nil {
		return "", "", err
	}
	return t.ID, filepath.Join(s.dir(t.ID), diskName), nil
}

// RestoreImage starts a machine from the image template id. The machine must have a copy of
// the template's disk.
func (s *Store) RestoreImage(ctx context.Context, hypervisor string, m banger.Machine, id string) (banger.Handles, error) {
	_, c, err := s.capturer(hypervisor)
	if err != nil {
		return banger.Handles{}, err
	}
	h, err := c.Restore(ctx, m, s.dir(id))
	if err != nil {
		if ctx.Err() == nil {
			err = s.Reject(id, err)
		}
		return banger.Handles{}, err
	}
	s.used(id)
	return h, nil
}
