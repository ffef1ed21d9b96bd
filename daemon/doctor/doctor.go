// Package doctor looks at a host and says whether banger can work on it: what it looked at,
// what it found, what that means, and the command that mends it.
//
// It owns the checks and their texts. The host is passed in, so that a test can provoke each
// result. It changes nothing, and knows nothing of how drivers do their work.
package doctor

import (
	"context"
	"sync"
	"time"

	"banger"
)

// Host is what is looked at. Every field is set.
type Host struct {
	Root     string // prefix of the paths of the kernel's and the system's files; "" on a real host
	UID      int
	User     string // login name
	Getenv   func(string) string
	LookPath func(name string) (string, error)
	KVM      func(context.Context) (KVM, error)
	// QEMU says which QEMU would be used and its version, or why none can be.
	QEMU func(context.Context) (path, version, note string, err error)
	// Firecracker says which Firecracker would be used, or why none can be.
	Firecracker func(context.Context) (Firecracker, error)
	// Git says which git there is.
	Git func(context.Context) (Git, error)
	// Isolation and Hypervisor are what new VMs get; Why says why.
	Isolation       banger.Isolation
	Hypervisor, Why string
	// Jail says whether a jail stands; Maps is vm.max_map_count, 0 if that isn't known, and
	// Carries the memory, in MiB, that a guest which is a process gets with it.
	Jail          func(context.Context) (Jail, error)
	Maps, Carries int
	ProcessKernel string // the kernel of such guests
	// UserNamespace tries to make a user namespace.
	UserNamespace func(context.Context) error
	// Filesystem describes the filesystem that a path is on, or would be.
	Filesystem func(path string) (Filesystem, error)
	// Lock tries whether files in a directory can be locked.
	Lock func(dir string) error
	// Owner returns who owns a path; an error when nobody does yet.
	Owner func(path string) (uid int, writable bool, err error)

	// Kernel says what is known of the kernel that new VMs get.
	Kernel func() (Kernel, error)
	// Obstacles are firewall rules of others that keep VMs on the bridge from other networks.
	Obstacles func() ([]string, error)
	// Bound says how a VM's memory is bounded, or why it can't be.
	Bound func() (string, error)
	// Templates counts the templates that VMs can be started from.
	Templates func() int

	State, Data, Cache string // banger's directories
	Settings           Settings
	RAMDir             string // where guest memory goes
	Siblings           map[string]error
	Shim               string // path of banger-shim
}

// Settings are what config.toml says, as far as it matters here.
type Settings struct {
	Path       string // of the file, which needn't be there
	Err        error  // why it can't be used
	DiskDriver string
	Net        string
	VCPU       int // what a VM gets that doesn't say
	MemoryMiB  int
	WarmStart  bool
	Insecure   bool // where a VMM can't have its sandbox, it runs without
	// Proxy are the variables that VMs get, Handed why VMs can't get what they should of
	// this user; nil if they can.
	Proxy  []string
	Handed error
}

// KVM says what KVM is good for on this host.
type KVM struct {
	Verdict     Verdict
	Found       string // the observed fact
	Mend        string // what a user could do
	SteadyClock bool   // the processor's time stamp counter is constant
}

// Verdict says whether KVM can be used.
type Verdict string

// The verdicts. With all but the first of them, guests are emulated.
const (
	KVMWorks   Verdict = "works"
	KVMMissing Verdict = "missing" // there is no device
	KVMDenied  Verdict = "denied"  // this user may not open it
	KVMBroken  Verdict = "broken"  // it opens, but a VM can't be made or run
	KVMCrawls  Verdict = "crawls"  // guests run, many times slower than they should
)

// Firecracker is a Firecracker that was found.
type Firecracker struct {
	Path, Version string
	Tested        string   // the version that banger was tested with last
	Holes         []string // security holes known in this version, a sentence each
}

// Git is the git that reads repositories.
type Git struct {
	Version string
	Oldest  string // the oldest version known to refuse repositories of other users
	Old     bool   // Version is older than Oldest
}

// Kernel is what is known of a guest's kernel without asking the archive.
type Kernel struct {
	Name    string
	Version string    // of the newest that is here; "": none is
	Newest  string    // the archive's newest at the last look; "": no look since Version was fetched
	Behind  bool      // Newest is newer than Version
	Looked  time.Time // when the last look was
	// Current is the version of the release's kernel for real machines, for a kernel that is a
	// program, and Older says that Version is older.
	Current string
	Older   bool
}

// Filesystem is a filesystem of the host.
type Filesystem struct {
	Path string // the nearest directory that exists
	Type string // "ext4", "tmpfs", "nfs"; a number when it isn't known
	Free int64  // bytes an ordinary user may still write
}

// Examine looks at everything.
func Examine(ctx context.Context, h *Host) banger.Report {
	r := banger.Report{Checks: []banger.Check{}, System: system(h)}
	kvmOnce := sync.OnceValues(func() (KVM, error) { return h.KVM(ctx) })
	once := *h
	once.KVM = func(context.Context) (KVM, error) { return kvmOnce() }
	for _, look := range []func(context.Context, *Host, *banger.Report){
		programs, configuration, processor, isolation, hypervisor, disks, repositories, network, login, namespaces, directories, space, memory, bound, kernel, warmth, handed, surroundings,
	} {
		look(ctx, &once, &r)
	}
	return r
}

func check(name string, level banger.Level, found, means, mend string) banger.Check {
	return banger.Check{Name: name, Level: level, Found: found, Means: means, Mend: mend}
}

func choice(what, name, why string) banger.Choice {
	return banger.Choice{For: what, Name: name, Why: why}
}
