package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/vmm/kvm"
	"banger/vmm/machine"
)

// The files of a template.
const (
	templateRAM   = "ram"   // the guest's memory; many map it, nobody writes to it
	templateState = "state" // QEMU's migration stream with all else
)

// stateName is QEMU's name for the state's descriptor.
const stateName = "template-state"

// formatVersion is part of every kind. Raise it when machines are described in another way:
// then older templates don't fit any more.
const formatVersion = 2

// Kind returns a digest of what a restored machine must have in common with its template.
func (d *Driver) Kind(ctx context.Context, m banger.Machine) (string, error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", err
	}
	accel, cpu := d.cpu(b, m)
	own := struct {
		Format           int
		File             machine.File
		Build            build
		Accel, CPU, Host string
		Cmdline          string
	}{formatVersion, b.file, b, accel, cpu, "", d.kernelArgs(m)}
	if d.kvm(m) {
		own.Host = kvm.HostCPU() // the guest's CPU depends on it
	}
	return machine.Kind(m, own)
}

// Capture stops the CPUs, and moves the memory file and QEMU's other state to dir. The memory
// needn't be copied, as it is the file.
func (d *Driver) Capture(ctx context.Context, m banger.Machine, h banger.Handles, dir string) error {
	ram := filepath.Join(dir, templateRAM)
	err := d.Supervisor.Capture(ctx, m, h, func() error {
		state, err := os.OpenFile(filepath.Join(dir, templateState), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer state.Close()
		if err := save(ctx, m, state); err != nil {
			return err
		}
		if err := state.Sync(); err != nil {
			return err
		}
		return os.Rename(ramFile(m), ram)
	})
	if err != nil {
		return err
	}
	f, err := os.Open(ram)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func save(ctx context.Context, m banger.Machine, state *os.File) error {
	q, err := dialMonitor(ctx, m)
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

// give prepares a migration to or from the state's file. QEMU gets a descriptor: its sandbox
// forbids the programs that other ways need, and it needn't be able to open the file.
func (q *monitor) give(state *os.File) error {
	skipRAM := []map[string]any{{"capability": "x-ignore-shared", "state": true}}
	if err := q.do("migrate-set-capabilities", map[string]any{"capabilities": skipRAM}, nil); err != nil {
		return err
	}
	return q.send(unix.UnixRights(int(state.Fd())), "getfd", map[string]any{"fdname": stateName}, nil)
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

// Restore implements banger.Capturer.
func (d *Driver) Restore(ctx context.Context, m banger.Machine, dir string) (banger.Handles, error) {
	state, err := os.Open(filepath.Join(dir, templateState))
	if err != nil {
		return banger.Handles{}, err
	}
	defer state.Close()
	ram := filepath.Join(dir, templateRAM)
	if err := machine.CheckMemory(ram, m); err != nil {
		return banger.Handles{}, err
	}
	return d.launch(ctx, m, append(memoryArgs(m, ram, memoryPrivate), "-incoming", "defer"), state)
}

// load makes a waiting QEMU load a template's state and go on from there.
func (q *monitor) load(ctx context.Context, state *os.File) error {
	if err := q.give(state); err != nil {
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
