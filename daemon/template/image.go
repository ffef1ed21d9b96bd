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

// diskName is the disk of an image template: as its guest's memory knows it.
const diskName = "disk"

// Bounds of the making of an image template; the user's command has none.
const (
	initWait  = 5 * time.Minute // for the image's init to have started everything
	initPause = 200 * time.Millisecond
	maxWords  = 2 << 10 // of a command that failed
)

// kind digests what tells templates of this subject apart, beside what its
// machine is.
func (sub Subject) kind(machine string) string {
	if sub.Image == nil {
		return machine
	}
	return imageKind(machine, sub.Image.ID, sub.Image.DiskMiB)
}

func imageKind(machine, image string, diskMiB int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "image %s %s %d", machine, image, diskMiB))
	return hex.EncodeToString(sum[:])
}

// freezeImage boots an image on a disk of its own, waits for its init, runs the
// user's command, and has all of it captured, the disk too.
func freezeImage(ctx context.Context, hv banger.Hypervisor, w workshop, sub Subject, within time.Duration, p banger.Progress) error {
	m, err := w.machine(sub)
	if err != nil {
		return err
	}
	disk, err := sub.Image.Disks.Create(ctx, m.Dir, sub.Image.DiskMiB)
	if err != nil {
		return err
	}
	m.Drives[len(m.Drives)-1].Path = disk
	tell(p, "boot", sub.Image.Name)
	h, err := hv.Start(ctx, m)
	if err != nil {
		return err
	}
	c := client(hv, m)
	if err := settle(ctx, &c, sub.Image.Identity, within, p); err != nil {
		return err
	}
	if sub.Image.After != "" {
		tell(p, "after", sub.Image.After)
		if err := after(ctx, &c, sub.Image.After); err != nil {
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

// settle gives the guest its makeshift identity and waits until its init has
// started everything.
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

// words keeps the end of what is written.
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

// RestoreImage starts a machine from the image template id, whose disk's copy it has.
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
