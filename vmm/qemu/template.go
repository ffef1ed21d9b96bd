package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/kind"
	"banger/kvm"
	"banger/shim"
)

// The files of a template.
const (
	templateRAM   = "ram"   // the guest's memory; shared by all who map it, written by none
	templateState = "state" // QEMU's migration stream of everything else
)

// stateName is what QEMU knows the state's descriptor by.
const stateName = "template-state"

// formatVersion is part of every kind: a change in how machines are described
// here makes templates of before strangers.
const formatVersion = 2

// Kind digests what a restored machine must have in common with its template.
func (d *Driver) Kind(ctx context.Context, m banger.Machine) (string, error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", err
	}
	accel, cpu := d.cpu(b, m)
	own := struct {
		Format           int
		Build            build
		Accel, CPU, Host string
		Cmdline          string
	}{formatVersion, b, accel, cpu, "", d.kernelArgs(m)}
	if d.cfg.KVM {
		own.Host = kvm.HostCPU() // what the guest was shown
	}
	return kind.Digest(m, own)
}

// Capture has the shim let go of the channel and waits until the guest has seen
// that; then it stops the processors and takes QEMU's own state and the memory
// file away. The memory isn't copied: it is the file.
func (d *Driver) Capture(ctx context.Context, m banger.Machine, h banger.Handles, dir string) error {
	if err := shim.Release(ctx, m.Dir); err != nil {
		return fmt.Errorf("freeze machine %s: %w", m.ID, err)
	}
	state, err := os.OpenFile(filepath.Join(dir, templateState), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := save(ctx, m, state); err != nil {
		return fmt.Errorf("save the state of machine %s: %w", m.ID, err)
	}
	if err := state.Sync(); err != nil {
		return err
	}
	ram := filepath.Join(dir, templateRAM)
	if err := os.Rename(ramFile(m), ram); err != nil {
		return err
	}
	if left, err := d.Kill(ctx, m, h); err != nil {
		return fmt.Errorf("end machine %s (%+v is left): %w", m.ID, left, err)
	}
	f, err := os.Open(ram)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func save(ctx context.Context, m banger.Machine, state *os.File) error {
	q, err := dialOwn(ctx, m)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.do("stop", nil, nil); err != nil {
		return err
	}
	if err := q.give(state); err != nil {
		return err
	}
	if err := q.do("migrate", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	return q.moved(ctx)
}

// give prepares for a migration by the state's file. A descriptor, for the
// sandbox forbids QEMU to run the programs that other ways need, and a file that
// is opened by us needn't be reachable by it.
func (q *monitor) give(state *os.File) error {
	skipRAM := []map[string]any{{"capability": "x-ignore-shared", "state": true}}
	if err := q.do("migrate-set-capabilities", map[string]any{"capabilities": skipRAM}, nil); err != nil {
		return err
	}
	return q.send([]int{int(state.Fd())}, "getfd", map[string]any{"fdname": stateName}, nil)
}

// moved waits for a migration to end.
func (q *monitor) moved(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		var info struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := q.do("query-migrate", nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU says: %s %.200s", info.Status, info.Error)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Restore is a start without a kernel.
func (d *Driver) Restore(ctx context.Context, m banger.Machine, dir string) (banger.Handles, error) {
	state, err := os.Open(filepath.Join(dir, templateState))
	if err != nil {
		return banger.Handles{}, err
	}
	defer state.Close()
	path := filepath.Join(dir, templateRAM)
	st, err := os.Stat(path)
	if err != nil {
		return banger.Handles{}, err
	}
	if want := int64(m.MemoryMiB) << 20; st.Size() != want {
		// QEMU would enlarge one that is too small, or die of it later.
		return banger.Handles{}, banger.Errorf(banger.CodeInvalid, "%s has %d bytes, the machine %d", path, st.Size(), want)
	}
	return d.launch(ctx, m, restore{path, state})
}

// restore begins with a template.
type restore struct {
	path  string // of the memory
	state *os.File
}

// ram makes nothing: what the guest writes is the VMM's own memory.
func (restore) ram(banger.Machine) (string, error) { return "", nil }

func (r restore) args(_ *Driver, m banger.Machine) []string {
	return append(memoryArgs(m, r.path, "off"), "-incoming", "defer")
}

func (r restore) wake(ctx context.Context, q *monitor) error {
	if err := q.give(r.state); err != nil {
		return err
	}
	if err := q.do("migrate-incoming", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	if err := q.moved(ctx); err != nil {
		return fmt.Errorf("load the template's state: %w", err)
	}
	return q.do("cont", nil, nil)
}
