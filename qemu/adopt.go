package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger"
	"banger/proc"
	"banger/shim"
)

const (
	// answerTimeout bounds a question to a monitor or a shim: a healthy one answers
	// within milliseconds, a stopped one not at all.
	answerTimeout = 2 * time.Second
	attachTimeout = 15 * time.Second // for a new shim, on a busy host
)

// Adopt finds the VMM by its monitor socket, then by the saved process, then
// among all processes by its name.
func (d *Driver) Adopt(ctx context.Context, m banger.Machine, saved banger.Handles) (h banger.Handles, alive bool, err error) {
	h = saved
	vmm, alive := findVMM(ctx, m, saved.VMM)
	if !alive {
		return h, false, ctx.Err()
	}
	h.VMM = vmm
	if filepath.Base(h.RAMFile) != filepath.Base(ramFile(m)) {
		h.RAMFile = "" // a restored machine has none, and what was saved may be anybody's
	}
	if _, err := os.Stat(ramFile(m)); err == nil {
		h.RAMFile = ramFile(m)
	}
	st, err := shim.Ask(ctx, m.Dir)
	if err != nil {
		d.attaching.Lock()
		defer d.attaching.Unlock()
		ctx, cancel := context.WithTimeout(ctx, attachTimeout)
		defer cancel()
		if st, err = shim.Attach(ctx, d.cfg.Shim, m.Dir, vmm); err != nil {
			return h, true, fmt.Errorf("replace the shim of machine %s: %w", m.ID, err)
		}
		// While no shim was there, a guest may have said its last words to nobody. One
		// that can't be asked now is asked again by whoever stops it.
		if stands, err := standsStill(ctx, m); err == nil && stands {
			_ = shim.Halted(ctx, m.Dir)
		}
	}
	h.Shim = st.Shim
	return h, true, nil
}

// findVMM returns the machine's living VMM. saved may be empty, or another
// process's by now: nothing is believed that doesn't carry the machine's name.
func findVMM(ctx context.Context, m banger.Machine, saved banger.Process) (banger.Process, bool) {
	if pid, err := askPID(ctx, m, answerTimeout); err == nil {
		if p, err := proc.Read(pid); err == nil && isVMM(pid, m.ID) {
			return p, true
		}
	}
	if proc.Alive(saved) && isVMM(saved.PID, m.ID) {
		return saved, true
	}
	return proc.Scan(func(pid int) bool { return isVMM(pid, m.ID) })
}

// askPID returns who listens on the machine's monitor, made sure to be its own.
func askPID(ctx context.Context, m banger.Machine, within time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	q, err := dialOwn(ctx, m)
	if err != nil {
		return 0, err
	}
	defer q.Close()
	return q.pid, nil
}

// dialOwn connects to the machine's monitor, made sure to be its own.
func dialOwn(ctx context.Context, m banger.Machine) (*monitor, error) {
	q, err := dialMonitor(ctx, m.Dir)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Name string `json:"name"`
	}
	err = q.do("query-name", nil, &answer)
	if err == nil && answer.Name != vmName(m.ID) {
		err = fmt.Errorf("the monitor of machine %s is %.80q's", m.ID, answer.Name)
	}
	if err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// isVMM reports whether a process is the VMM of a machine: a QEMU of our own
// user, started with the machine's name.
func isVMM(pid int, id string) bool {
	argv, ok := proc.OwnArgs(pid, "qemu-")
	i := slices.Index(argv, "-name")
	return ok && i >= 0 && i+1 < len(argv) && argv[i+1] == vmName(id)
}
