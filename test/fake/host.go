// Package fake is a host in memory: processes, guest memory, disks, images and
// kernels that drivers make and remove, with guests whose agents answer. It can
// print its state. Every effect on it has a name, and can be made to fail or to
// kill the daemon.
//
// It knows nothing of the engine or any database. It is a model of what banger's
// drivers promise, and passes the same contract suites.
package fake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
)

// Host is what outlives daemons. All methods may be called side by side.
type Host struct {
	// Agent, when set before the first VM starts, serves each stream to a guest
	// instead of the small agent built in.
	Agent func(guest *Guest)
	// Pause, when set before the first VM starts, says when something ends that may
	// take long, with which error; nil: at once. It is asked with a VM's id and what it
	// is: "configure", "shutdown" and the like, a guest's agent's answer; "poweroff", the
	// shutdown of a guest that has agreed to it; and of drivers "start", "restore",
	// "dial", "wait", "kill", "create", "clone", "detach" and "set". What lasts ends
	// early with its context, its guest or its daemon.
	Pause func(vm, what string) <-chan error
	// ClockError is how far the guests' clocks are ahead of this host's.
	ClockError time.Duration

	mu     sync.Mutex
	boot   int
	pid    int
	ticks  uint64
	procs  map[int]*process
	files  map[string]string // path → owner: guest memory
	disks  map[string]disk   // directory → disk
	images map[string]bool   // ids
	runs
	kernel  map[string]object // name → TAPs, loops, device-mapper nodes
	serials int
	crimes  []string
}

// runs is what runs, and how what ran ended.
type runs struct {
	guests map[string]*machine      // VM id → what runs
	exits  map[string]banger.Exit   // VM id → how its last run ended, as its shim wrote it down
	ends   map[string][]banger.Exit // VM id → how all its runs ended
}

type disk struct {
	sizeMiB, serial int
	from            string // the file it is a clone of; empty: it was made empty
}

// process is one entry of the host's process table.
type process struct {
	banger.Process
	what string // "vmm", "shim", or a stranger's program
	vm   string // whose; empty: not ours
}

// NewHost returns a host that was just booted.
func NewHost() *Host {
	h := &Host{
		disks: map[string]disk{}, images: map[string]bool{}, runs: runs{ends: map[string][]banger.Exit{}},
	}
	h.Reboot()
	return h
}

// Reboot is a power cut and a start: processes, sockets and guest memory are
// gone, files are still there. Process ids begin anew, so old ones are reused.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.guests {
		close(m.ended)
	}
	h.boot++
	h.pid = 100
	h.procs, h.files = map[int]*process{}, map[string]string{}
	h.exits, h.guests = map[string]banger.Exit{}, map[string]*machine{}
	h.kernel = map[string]object{}
}

// BootID is the current boot's.
func (h *Host) BootID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bootID()
}

func (h *Host) bootID() string { return fmt.Sprintf("boot-%d", h.boot) }

// Stranger starts a process that is none of ours and returns its id. Ending it
// is a crime.
func (h *Host) Stranger(program string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spawn(program, "").PID
}

// Recycle ends a process as the kernel would end it and gives its id to a
// stranger.
func (h *Host) Recycle(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.procs[pid]; p != nil && p.what == "vmm" {
		h.end(p.vm, banger.Exit{Kind: banger.ExitKilled, Detail: "KILL", Status: -1})
	}
	h.ticks++
	h.procs[pid] = &process{
		Process: banger.Process{PID: pid, StartTime: h.ticks, BootID: h.bootID()}, what: "somebody's editor",
	}
}

// spawn adds a process. h.mu is held.
func (h *Host) spawn(what, vm string) banger.Process {
	h.pid++
	h.ticks++
	p := banger.Process{PID: h.pid, StartTime: h.ticks, BootID: h.bootID()}
	h.procs[p.PID] = &process{Process: p, what: what, vm: vm}
	return p
}

// is reports whether a process is still the one that p identifies. h.mu is held.
func (h *Host) is(p banger.Process) bool {
	q := h.procs[p.PID]
	return q != nil && q.Process == p
}

// EndGuest ends a VM's run as its guest, or somebody with a kill, would: the
// VMM is gone, its shim writes down why, the rest stays.
func (h *Host) EndGuest(vm string, exit banger.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end(vm, exit)
}

// end removes a VM's VMM process. h.mu is held.
func (h *Host) end(vm string, exit banger.Exit) {
	for pid, p := range h.procs {
		if p.vm == vm && p.what == "vmm" {
			delete(h.procs, pid)
		}
	}
	if m := h.guests[vm]; m != nil {
		if exit.Time.IsZero() {
			exit.Time = time.Unix(0, 0).UTC()
		}
		h.exits[vm] = exit
		exit.Time = time.Now()
		exit.Time = time.Now()
		h.ends[vm] = append(h.ends[vm], exit)
		delete(h.guests, vm)
		close(m.ended)
	}
}

// Ends lists how a VM's runs ended, and when, those that went with the host left out.
func (h *Host) Ends(vm string) []banger.Exit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ends[vm])
}

func (h *Host) pause(vm, what string) <-chan error {
	if h.Pause == nil {
		return nil
	}
	return h.Pause(vm, what)
}

// Owned lists what exists on the host for each VM: by id, or for a disk by its
// directory's last element.
func (h *Host) Owned() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	owned := map[string][]string{}
	add := func(vm, what string) { owned[vm] = append(owned[vm], what) }
	for _, p := range h.procs {
		if p.vm != "" {
			add(p.vm, p.what)
		}
	}
	for _, vm := range h.files {
		add(vm, "ram")
	}
	for _, o := range h.kernel {
		if o.vm != "" {
			add(o.vm, o.kind)
		}
	}
	for vm, ports := range h.listening(h.procs) {
		for _, p := range ports {
			add(vm, "port "+p.String())
		}
	}
	for dir, d := range h.disks {
		add(dir[strings.LastIndexByte(dir, '/')+1:], fmt.Sprintf("disk#%d", d.serial))
	}
	for _, list := range owned {
		slices.Sort(list)
	}
	return owned
}

// Crimes lists what was done to strangers.
func (h *Host) Crimes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.crimes)
}

// String prints everything there is, in a stable order.
func (h *Host) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", h.bootID())
	for _, pid := range slices.Sorted(maps.Keys(h.procs)) {
		p := h.procs[pid]
		fmt.Fprintf(&b, "process %d started %d: %s %s\n", pid, p.StartTime, p.what, p.vm)
	}
	for _, path := range slices.Sorted(maps.Keys(h.files)) {
		fmt.Fprintf(&b, "memory %s of %s\n", path, h.files[path])
	}
	for _, dir := range slices.Sorted(maps.Keys(h.disks)) {
		fmt.Fprintf(&b, "disk#%d in %s, %d MiB\n", h.disks[dir].serial, dir, h.disks[dir].sizeMiB)
	}
	for _, name := range slices.Sorted(maps.Keys(h.kernel)) {
		fmt.Fprintf(&b, "%s %s of %q\n", h.kernel[name].kind, name, h.kernel[name].vm)
	}
	for _, id := range slices.Sorted(maps.Keys(h.images)) {
		fmt.Fprintf(&b, "image %s\n", id)
	}
	for _, c := range h.crimes {
		fmt.Fprintf(&b, "CRIME %s\n", c)
	}
	return b.String()
}

// Is reports whether p still identifies a process of this host.
func (h *Host) Is(p banger.Process) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.is(p)
}
