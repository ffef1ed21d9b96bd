package banger_test

// The plan of the house, as data: its sides, the laws of the arrows between
// them, and the budgets. house_rules_test.go holds the tree to it.

// law says what the production code of a side may import besides its own side.
// A side is a folder and all below it that isn't a side itself. What it may
// import is named the same way; "*" is anything.
type law struct {
	side string
	may  []string
}

var laws = []law{
	{"banger", nil}, // the nouns
	{"version", nil},

	// What host and guest share, and what runs in the guest.
	{"guest", nil},
	{"guest/agent", []string{"guest"}},

	// The technologies.
	{"host", []string{"banger", "guest", "config"}},
	{"vmm", []string{"banger", "guest", "config", "host"}},
	{"disk", []string{"banger", "guest", "config", "host"}},
	{"network", []string{"banger", "guest", "config", "host"}},
	{"image", []string{"banger", "guest", "config", "host"}},
	{"kernel", []string{"banger", "guest", "config", "host"}},
	{"fetch", []string{"banger", "guest", "config", "host"}},

	// The order of things, and the doors to it.
	{"daemon", []string{"banger", "guest", "host"}},
	{"api", []string{"banger", "guest", "config", "workspace", "version", "host/unixsock", "host/xdg"}},
	{"cli", []string{"banger", "guest", "config", "workspace", "version", "host/loopback", "host/unixsock", "host/xdg"}},
	{"config", []string{"banger", "host/xdg"}},
	{"workspace", []string{"banger", "guest", "host"}},

	// Wiring, tests, releases. The programs of a VM stay small.
	{"cmd", []string{"*"}},
	{"cmd/banger-agent", []string{"guest", "guest/agent", "version"}},
	{"cmd/banger-shim", []string{"vmm/shim", "vmm/jail", "vmm/publish", "network", "guest"}},
	{"cmd/banger-jail", []string{"vmm"}},
	{"test", []string{"*"}},
	{"dist", []string{"*"}},
}

// drivers know nothing of each other: any one of them can be taken out.
var drivers = []string{"vmm/qemu", "vmm/firecracker", "vmm/uml", "disk/diskfile", "disk/dmsnap", "network/usernet", "network/bridge"}

// arrow is an import of ours, of folders as in law.
type arrow struct{ from, to string }

// exceptions are arrows against a law, each with its reason.
var exceptions = map[arrow]string{
	{"vmm/shim", "network/netns"}:        "a VM's shim makes the TAP of its user network",
	{"image", "fetch"}:                   "images are made of packages and layers that come from the network",
	{"vmm/firecracker/release", "fetch"}: "a program that is fetched for a user who asks",
	{"vmm/qemu/packaged", "fetch"}:       "QEMU is fetched where a host has none",
	{"kernel", "fetch"}:                  "kernels come from packages of the network",
}

// rooms are all packages, each with what it owns. A folder that isn't here
// fails: a new room is a decision. ARCHITECTURE.md's map is made from this.
var rooms = []room{
	{"banger", "the nouns and their rules: VM, Spec, State, Handles, Image, Kernel, Report, Error; the interfaces each needs from the world"},
	{"api", "the services over a Unix socket: HTTP server and client"},
	{"api/inguest", "what is asked of a guest over HTTP: commands and files"},
	{"api/wire", "the form of requests and answers: values, lists, lines of progress, errors"},
	{"cli", "the commands"},
	{"cli/sshd", "SSH's server for a guest, on its host"},
	{"cmd/banger", "wiring of the command line"},
	{"cmd/banger-agent", "wiring of what runs in the guest"},
	{"cmd/banger-jail", "wiring of the first process in a VMM's jail"},
	{"cmd/banger-shim", "wiring of the process per VM"},
	{"cmd/bangerd", "wiring of the daemon: knows every driver"},
	{"config", "config.toml, for command line and daemon alike"},
	{"daemon/catalog", "images and kernels: names in the store, files by the drivers"},
	{"daemon/console", "reading a VM's console log"},
	{"daemon/doctor", "what is wrong with a host, and what mends it"},
	{"daemon/engine", "the order of things: create, start, stop, delete, recover"},
	{"daemon/engine/fleet", "all VMs there are: their records, who works on which, what each holds, who needs it"},
	{"daemon/engine/names", "what VMs are called by: names, labels, ports of the host; which may be had"},
	{"daemon/engine/plan", "steps that are done, undone or done again, whoever dies; knows no VM"},
	{"daemon/gc", "what lies in our places and no VM owns; what no VM uses and can be had again"},
	{"daemon/idle", "stops VMs that nobody uses, when the user set a time for it"},
	{"daemon/isolation", "what a VM runs on: what was named or refused, else the strongest that works here"},
	{"daemon/journal", "the latest events, in memory"},
	{"daemon/operation", "creations that go on without the client that asked for them"},
	{"daemon/proxy", "what listens in VMs, for this user's browser: names, pages of ports, a start for a stopped VM"},
	{"daemon/sqlite", "the store"},
	{"daemon/template", "frozen guests: their files, when one is made, which one fits, when one is trusted no more"},
	{"disk/diskfile", "sparse disks from one ext4 file"},
	{"disk/dmsnap", "disks as device-mapper snapshots of one base; for a daemon that runs as root"},
	{"dist", "a release, and the reference made from the commands"},
	{"fetch", "files over HTTP: resumed, watched for silence, checked by their hash, one at a time"},
	{"fetch/debian", "the Debian archive's chain of trust, control files, versions, package files"},
	{"fetch/xz", "reads xz within a bound of memory"},
	{"guest", "the protocol between host and agent, and its client"},
	{"guest/agent", "what the agent serves"},
	{"guest/agent/account", "a guest's users, in its own files"},
	{"guest/agent/boot", "/init: from the kernel to the image's init"},
	{"guest/agent/channel", "what carries the streams, a kind per hypervisor"},
	{"guest/agent/dial", "connections made and taken in a guest, with the rights of its users"},
	{"guest/agent/group", "a cgroup for each command"},
	{"guest/agent/home", "what a guest has of its host's user: git's identity, time zone, language, proxies, certificates"},
	{"guest/agent/modprobe", "which modules a name means, for a kernel whose image has no kmod"},
	{"guest/agent/nic", "the guest's network device"},
	{"guest/agent/outfit", "what Docker and its like find in any image: modules on demand, device nodes, data directories"},
	{"guest/agent/quick", "reads and writes that cost no switch of threads"},
	{"guest/agent/renew", "what a restored guest makes new"},
	{"guest/agent/session", "commands and their output"},
	{"guest/agent/tool", "put and get of trees, and what there is of a repository's work"},
	{"guest/agent/uevent", "waits for devices"},
	{"guest/flow", "connections into and out of a guest, each on a stream"},
	{"guest/work", "asks a guest for its work"},
	{"guest/link", "streams over one lossy byte pipe"},
	{"guest/tartree", "a tree as a tar, and a tar as a tree"},
	{"host/cgroup", "a bound on the memory of a process and what it starts, where the host allows one"},
	{"host/hostfs", "room left on a filesystem, names that outlive a power cut, locks on files, logs that stay small"},
	{"host/loopback", "listeners on this host's own addresses that serve this user alone"},
	{"host/person", "what guests may have of the host's user"},
	{"host/proc", "identity of processes"},
	{"host/published", "the sockets that listen for published ports, and which ports are free"},
	{"host/unixsock", "Unix sockets: paths of any length, peers, descriptors"},
	{"host/xdg", "the user's directories"},
	{"image/bootstrap", "images of Debian packages, configured in a VM"},
	{"image/erofs", "writes EROFS, and reads what it wrote"},
	{"image/ext4", "reads ext4, with its journal, without a privilege"},
	{"image/node", "a file of any file system, and as an entry of a tar"},
	{"image/oci", "images in layers: of archives, layouts and registries, flattened; and given away again"},
	{"image/overlay", "a layer of what a VM has written over its image"},
	{"image/rootfs", "filesystem images from root tars, and their store"},
	{"kernel", "kernels kept on this host, ready to boot"},
	{"kernel/initramfs", "the initramfs"},
	{"kernel/kmod", "module files and their indexes"},
	{"network/bridge", "the host's bridge network: TAPs, nftables, addresses; for a daemon that runs as root"},
	{"network/nearby", "what lies close to a host and trusts it: guests are kept from it"},
	{"network/netns", "a TAP for a VMM, in a network namespace of its own"},
	{"network/usernet", "the user-mode network"},
	{"test/archivetest", "a Debian archive that lies on request"},
	{"test/bench", "banger measured against the floor"},
	{"test/bench/native", "a VM measured against a container of the same root"},
	{"test/bench/bare", "the benchmark's rival in a guest: reads and writes on the agent's device, and nothing else"},
	{"test/clienttest", "the client that docs/client.md makes, for tests"},
	{"test/disktest", "contract of disks"},
	{"test/fake", "a host in memory that fails or dies where told"},
	{"test/hostile", "a guest that does its host all the harm it can, and who serves it"},
	{"test/hypervisortest", "contract of hypervisors"},
	{"test/lab", "a machine with KVM, device-mapper and systemd to run tests in, and to cut the power of"},
	{"test/networktest", "contract of networks"},
	{"test/soak", "what a guest runs whose VMM is to be killed: files whose every byte is known"},
	{"test/storetest", "contract of the store"},
	{"test/treetest", "trees compared by all that a program sees of them, tars of any entries, and a real registry of them"},
	{"test/vmtest", "an installation for tests, and what it holds of the host"},
	{"version", "what this build is"},
	{"vmm/firecracker", "Firecracker, in its jailer where the daemon is root"},
	{"vmm/firecracker/release", "fetches a pinned Firecracker release, when asked, and checks it"},
	{"vmm/jail", "the room of a VMM that has no jailer of its own, and whether it stands on this host"},
	{"vmm/jail/attack", "a broken kernel: tries all ways out of its jail"},
	{"vmm/kvm", "does KVM really work here"},
	{"vmm/machine", "a VMM's life, written once: launched, adopted, told from other processes, ended; which machines a template fits"},
	{"vmm/publish", "published ports: the connections and datagrams that come to them, led into a guest"},
	{"vmm/qemu", "QEMU's microvm machine"},
	{"vmm/qemu/packaged", "a QEMU of Debian's packages, for hosts that have none"},
	{"vmm/shim", "the process per VM: channel, console, user network, exit status"},
	{"vmm/uid", "user ids for the VMMs of a daemon of root, each one VM's"},
	{"vmm/uml", "User-mode Linux, in a jail of ours"},
	{"vmm/vhost", "the host's end of a guest's vsock, for a VMM that speaks vhost-user"},
	{"workspace/git", "asks git about a repository that nobody trusts"},
	{"workspace/send", "a host repository as a tar"},
	{"workspace/take", "a guest's work, received and checked beside the host's repository, then kept in it or landed"},
}

// room is one package.
type room struct{ path, owns string }

// onlyHere lists imports that a root audit must find in a handful of folders.
var onlyHere = map[string][]string{
	"os/exec":               {"test/bench", "test/bench/bare", "test/bench/native", "test/treetest", "test/clienttest", "test/soak", "dist", "guest/agent", "guest/agent/boot", "guest/agent/renew", "guest/agent/session", "guest/agent/tool", "cli", "cmd/banger", "cmd/bangerd", "vmm/firecracker", "vmm/jail", "test/lab", "host/person", "host/proc", "network/netns", "vmm/qemu", "vmm/shim", "test/vmtest", "workspace/git"},
	"net/http":              {"test/archivetest", "api", "api/inguest", "api/wire", "cmd/banger", "cmd/bangerd", "daemon/proxy", "fetch", "fetch/debian", "image/bootstrap", "image/oci", "vmm/firecracker/release", "vmm/firecracker"}, // firecracker: of its VMMs' sockets
	"database/sql":          {"daemon/sqlite"},
	"golang.org/x/sys/unix": {"test/bench/bare", "test/soak", "test/treetest", "test/hostile", "network/bridge", "cli", "guest/agent", "guest/agent/boot", "guest/agent/channel", "guest/agent/dial", "guest/agent/modprobe", "guest/agent/nic", "guest/agent/outfit", "guest/agent/quick", "guest/agent/renew", "guest/agent/session", "guest/agent/tool", "guest/agent/uevent", "api", "cmd/banger", "cmd/banger-agent", "cmd/bangerd", "disk/diskfile", "disk/dmsnap", "vmm/firecracker", "host/cgroup", "host/hostfs", "vmm/jail", "vmm/jail/attack", "vmm/kvm", "network/netns", "host/proc", "vmm/machine", "vmm/publish", "vmm/qemu", "image/rootfs", "vmm/shim", "daemon/sqlite", "guest/tartree", "host/published", "host/unixsock", "network/usernet", "workspace/send", "workspace/git", "test/vmtest", "vmm/uml", "vmm/vhost"},
}

// The root stays pure: it may use these parts of the standard library only.
var rootMayUse = []string{"context", "errors", "fmt", "io", "net", "slices", "strconv", "strings", "time"}

// Budgets.
const (
	maxFunc      = 80
	maxFile      = 600
	maxPackage   = 2000
	maxInterface = 8
	maxMethods   = 25
	maxFields    = 15
	maxDeps      = 27
	maxChain     = 4  // packages that one package stands on, one upon the other; wiring excepted
	fullType     = 15 // methods from which on a type's free functions count as its methods
)

// raised are the budgets of packages that have a reason for more.
var raised = map[string]raise{
	"cli": {0, "one small file a command: it grows in breadth with what banger can do, so only its files have a budget"},
}

// raise is a package's own budget in lines, 0 for none.
type raise struct {
	lines  int
	reason string
}

// given are types that free functions of their package may take, with the reason.
var given = map[string]string{
	"cli.App": "a command is a function of the application, in a file of its own",
}

// plainData names structs that only carry values: specs, configs, wire types.
// The registers are the kernel's own (kvm.h).
var plainData = []string{"banger.VM", "banger.Spec", "guest.ExecSpec", "guest.Command", "vmm/kvm.registers", "vmm/kvm.specialRegisters", "daemon/doctor.Host", "config.Config"}
