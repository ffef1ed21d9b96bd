package engine

import (
	"context"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"syscall"

	"banger"
	"banger/daemon/console"
)

// Dial opens one stream to the agent of a running VM.
func (e *Engine) Dial(ctx context.Context, ref string) (net.Conn, error) {
	vm, err := e.VM(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State != banger.Running {
		return nil, notRunning(vm)
	}
	hv, err := e.hypervisor(vm)
	if err != nil {
		return nil, err
	}
	conn, err := hv.Dial(ctx, e.machine(vm))
	if err != nil {
		if now, nerr := e.VM(ctx, vm.ID); nerr == nil && now.State != banger.Running {
			return nil, notRunning(now)
		}
		return nil, surface("", "reach the agent of "+vm.Spec.Name, err)
	}
	return conn, nil
}

func notRunning(vm banger.VM) *banger.Error {
	err := banger.Errorf(banger.CodeNotRunning, "vm %s is %s", vm.Spec.Name, vm.State)
	if vm.Reason != "" {
		err = banger.Errorf(banger.CodeNotRunning, "vm %s is %s: %s", vm.Spec.Name, vm.State, vm.Reason)
	}
	if vm.State == banger.Stopped {
		return err.WithHint("banger vm start %s", vm.Spec.Name)
	}
	return err
}

// Logs copies the console log, oldest kept byte first.
func (e *Engine) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	r, err := e.fleet.Find(ref)
	if err != nil {
		return nil, err
	}
	var live func() bool
	if follow {
		live = func() bool {
			return slices.Contains([]banger.State{banger.Starting, banger.Running, banger.Stopping}, e.fleet.Seen(r).State)
		}
	}
	l, err := console.Open(ctx, e.dir(e.fleet.Seen(r).ID), live)
	if err != nil {
		return nil, surface("", "read the console of vm "+ref, err)
	}
	return l, nil
}

// StatsVM says what a VM uses.
func (e *Engine) StatsVM(ctx context.Context, ref string) (banger.Stats, error) {
	vm, err := e.VM(ctx, ref)
	if err != nil {
		return banger.Stats{}, err
	}
	st := banger.Stats{ID: vm.ID, Name: vm.Spec.Name, State: vm.State, Time: e.Now()}
	if vm.Held.VMM.PID != 0 {
		st.Usage, err = e.Processes.Usage(vm.Held.VMM)
		if err != nil && banger.CodeOf(err) != banger.CodeNotRunning { // else it has just ended
			return banger.Stats{}, surface("", "stats of vm "+vm.Spec.Name, err)
		}
	}
	st.Disk, err = allocated(e.dir(vm.ID))
	return st, surface("", "stats of vm "+vm.Spec.Name, err)
}

// allocated is what the files of a directory take on their filesystem.
func allocated(dir string) (int64, error) {
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += st.Blocks * 512 // stat(2): st_blocks counts 512 bytes on every filesystem
			}
		}
		return nil
	})
	return bytes, err
}
