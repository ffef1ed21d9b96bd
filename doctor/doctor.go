// Package doctor looks at a host and says whether banger can work on it: what it
// looked at, what it found, what that means, and the command that mends it.
//
// It owns the judgements and their words. The host is handed to it, so that each
// judgement can be provoked in a test. It refuses to change anything, and to know
// how drivers do their work.
package doctor

import (
	"context"
	"slices"
	"sync"

	"banger/config"
	"banger/kvm"
	"banger/xdg"
)

// Level is how much a finding matters.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Note Level = "note" // to know, nothing to do
	Warn Level = "warn" // works, but not as well as it could
	Fail Level = "fail" // VMs can't be made
)

// Check is one thing looked at.
type Check struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	Found string `json:"found"`           // the observed fact
	Means string `json:"means,omitempty"` // what follows from it
	Mend  string `json:"mend,omitempty"`  // the command, or what to do
}

// Report is all that was looked at, and the drivers chosen.
type Report struct {
	Ready   bool     `json:"ready"` // nothing failed
	Checks  []Check  `json:"checks"`
	Drivers []Driver `json:"drivers"`
	// Hypervisors are all that banger knows.
	Hypervisors []Hypervisor `json:"hypervisors"`
	// Records says that a daemon has run here before, and has something to tell.
	Records bool `json:"records"`
}

// Hypervisor is one that VMs can be run on, or why they can't.
type Hypervisor struct {
	Name    string   `json:"name"`
	Path    string   `json:"path,omitempty"`
	Version string   `json:"version,omitempty"`
	Missing string   `json:"missing,omitempty"` // why there is none
	Default bool     `json:"default"`
	Why     string   `json:"why,omitempty"` // it is the default
	Tested  string   `json:"tested,omitempty"`
	Holes   []string `json:"holes,omitempty"`
}

// Driver is one that new VMs get, and why.
type Driver struct {
	For  string `json:"for"` // "hypervisor", "disk", "network"
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Add appends checks.
func (r *Report) Add(checks ...Check) {
	r.Checks = append(r.Checks, checks...)
	r.Ready = !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Level == Fail })
}

// Host is what is looked at. Every field is set.
type Host struct {
	Root     string // before absolute paths of the kernel's and the system's files; "" on a real host
	UID      int
	User     string // login name
	Getenv   func(string) string
	LookPath func(name string) (string, error)
	KVM      func(context.Context) (kvm.Result, error)
	// QEMU says which one would be used and its version, or why none can be.
	QEMU func(context.Context) (path, version, note string, err error)
	// Firecracker says the same of it.
	Firecracker func(context.Context) (Firecracker, error)
	// Hypervisor is the one that new VMs get, and why.
	Hypervisor, Why string
	// UserNamespace makes and leaves one.
	UserNamespace func(context.Context) error
	// Filesystem describes the one a path is in or would be in.
	Filesystem func(path string) (Filesystem, error)
	// Lock takes and leaves a lock in a directory, or says why it can't.
	Lock func(dir string) error
	// Owner returns who owns a path; an error when nobody does yet.
	Owner func(path string) (uid int, writable bool, err error)

	Dirs      xdg.Dirs
	Config    config.Config
	ConfigErr error
	RAMDir    string // where guest memory goes
	Siblings  map[string]error
	Shim      string // path of banger-shim
}

// Firecracker is one that was found.
type Firecracker struct {
	Path, Version string
	Tested        string   // the version that banger was tested with last
	Holes         []string // what is known to be wrong with it, in sentences
}

// Filesystem is one of the host's.
type Filesystem struct {
	Path string // the nearest directory that exists
	Type string // "ext4", "tmpfs", "nfs"; a number when it isn't known
	Free int64  // bytes an ordinary user may still write
}

// Examine looks at everything.
func Examine(ctx context.Context, h *Host) Report {
	r := Report{Checks: []Check{}}
	kvmOnce := sync.OnceValues(func() (kvm.Result, error) { return h.KVM(ctx) })
	once := *h
	once.KVM = func(context.Context) (kvm.Result, error) { return kvmOnce() }
	for _, look := range []func(context.Context, *Host, *Report){
		programs, configuration, processor, hypervisor, disks, network, login, namespaces, directories, space, memory, warmth, surroundings,
	} {
		look(ctx, &once, &r)
	}
	return r
}
