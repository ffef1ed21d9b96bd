package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger"
)

var _ banger.Capturer = (*Hypervisor)(nil)

// Kind is that of what a machine is made of, drives and names left out.
func (v *Hypervisor) Kind(ctx context.Context, m banger.Machine) (string, error) {
	v.l.mustLive()
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %q %q %q %d %s", m.VCPU, m.MemoryMiB, m.Kernel, m.Initramfs, m.Cmdline, len(m.Drives), m.Net.Mode))
	return hex.EncodeToString(sum[:]), ctx.Err()
}

// The one file of a fake template, and all that is in it.
const (
	templateFile = "state"
	templateText = "a frozen fake guest"
)

// Capture writes a template of a guest that was told to freeze, and ends it:
// the step "capture", then those of Kill.
func (v *Hypervisor) Capture(ctx context.Context, m banger.Machine, held banger.Handles, dir string) error {
	err := errors.Join(ctx.Err(), v.l.step(m.ID, "capture", func() error {
		v.l.host.mu.Lock()
		defer v.l.host.mu.Unlock()
		if g := v.l.host.guests[m.ID]; g == nil || !g.frozen {
			return banger.Errorf(banger.CodeConflict, "the guest %s isn't frozen", m.ID)
		}
		return os.WriteFile(filepath.Join(dir, templateFile), []byte(templateText), 0o600)
	}))
	if err != nil {
		return err
	}
	_, err = v.Kill(ctx, m, held)
	return err
}

// Restore is Start without guest memory of its own: the steps "restore shim" and
// "restore vmm", after those of Kill, with the pause "restore" between them.
func (v *Hypervisor) Restore(ctx context.Context, m banger.Machine, dir string) (banger.Handles, error) {
	text, err := os.ReadFile(filepath.Join(dir, templateFile))
	if err == nil && string(text) != templateText {
		err = banger.Errorf(banger.CodeInvalid, "the template is damaged")
	}
	if err != nil {
		return banger.Handles{}, err
	}
	if left, err := v.Kill(ctx, m, banger.Handles{}); err != nil {
		return left, err
	}
	h := v.l.host
	var held banger.Handles
	err = errors.Join(ctx.Err(), v.locked(m.ID, "restore shim", func() {
		delete(h.exits, m.ID)
		held.Shim = h.spawn("shim", m.ID)
	}))
	if err == nil {
		err = v.l.wait(ctx, m.ID, "restore")
	}
	if err == nil {
		err = v.locked(m.ID, "restore vmm", func() {
			held.VMM = h.spawn("vmm", m.ID)
			h.guests[m.ID] = &machine{Machine: m, vmm: held.VMM, restored: true, ended: make(chan struct{})}
		})
	}
	if err != nil {
		return banger.Handles{}, errors.Join(err, v.clear(m.ID))
	}
	return held, nil
}

// Restored reports whether this guest was restored from a template.
func (g *Guest) Restored() bool { return g.machine.restored }
