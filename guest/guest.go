// Package guest is the protocol between the host and the agent in a guest: the messages,
// the frames, and the client. It works on any net.Conn, and knows nothing of how a stream
// reaches a guest or what an agent does with a request.
//
// Every operation is one stream. The client sends one Request, with the versions it knows.
// The agent answers with one Response, with the version it chose; then the operation's own
// frames follow. A stream may break at any byte, and every operation can go on on a new
// one: sessions by id and offset, all others because repeating them does no harm.
package guest

import (
	"context"
	"io"
	"net"
	"time"
)

// Version is the newest protocol version; MinVersion the oldest still spoken.
// An agent older than the host keeps working: VMs outlive upgrades.
const (
	Version    = 1
	MinVersion = 1
)

// Dialer opens one stream to the agent.
type Dialer func(ctx context.Context) (net.Conn, error)

// Identity makes a booted guest this VM. It comes after the freeze point, so a frozen
// guest has nothing of any VM.
type Identity struct {
	ID            string       `json:"id"`
	Hostname      string       `json:"hostname"`
	MachineID     string       `json:"machine_id"` // 32 hex digits, machine-id(5)
	Time          time.Time    `json:"time"`       // the host\'s clock as this is sent; zero: Client.Configure puts it there
	Entropy       []byte       `json:"entropy"`    // 32 to 256 bytes, credited to the guest's pool
	Net           *NetIdentity `json:"net,omitempty"`
	Drives        DriveSerials `json:"drives"`
	KernelVersion string       `json:"kernel_version"`      // names /lib/modules/VERSION
	NoInit        bool         `json:"no_init,omitempty"`   // don't run the image's init; the reaper is PID 1
	NeedInit      bool         `json:"need_init,omitempty"` // an image without an init is an error
	Home          *Home        `json:"home,omitempty"`      // what it has of the host's user
}

// NetIdentity configures the guest's one network device.
type NetIdentity struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // CIDR
	Gateway string `json:"gateway"`
	DNS     string `json:"dns"`
}

// DriveSerials names the virtio-blk serials of the guest's drives.
type DriveSerials struct {
	Image   string `json:"image"`   // EROFS, the root's lower layer
	Modules string `json:"modules"` // EROFS, /lib/modules/VERSION; empty: none
	Disk    string `json:"disk"`    // ext4, the root's upper layer; grown to its device
}

// Ready is the agent's answer to Identity, once the root is assembled.
type Ready struct {
	Agent   string  `json:"agent"`  // the agent's version
	Init    string  `json:"init"`   // path of the image's init, or "" when the reaper is PID 1
	Stages  []Stage `json:"stages"` // where the guest's time went
	DiskMiB int64   `json:"disk_mib"`

	// Renewed names what was made new before any program of the image ran, of
	// Renewals; BootID is the boot's id as programs read it.
	Renewed []string `json:"renewed,omitempty"`
	BootID  string   `json:"boot_id,omitempty"`
	Seen    Seen     `json:"seen,omitzero"`
}

// Seen is what programs read in the guest after all was made new. The host compares it
// with what it asked for.
type Seen struct {
	Time      time.Time `json:"time"` // the wall clock
	Hostname  string    `json:"hostname"`
	MachineID string    `json:"machine_id"`
	MAC       string    `json:"mac,omitempty"` // of eth0, if there is one
}

// What guests restored from one template would share, and each makes new.
const (
	RenewClock     = "clock"      // the wall clock
	RenewRandom    = "random"     // the kernel's random numbers, reseeded from the host
	RenewHostname  = "host name"  //
	RenewMachineID = "machine-id" // machine-id(5)
	RenewNetwork   = "network"    // MAC and addresses
	RenewBootID    = "boot id"    // /proc/sys/kernel/random/boot_id

	// Only of guests restored from image templates, whose programs have run.
	RenewHostKeys = "SSH host keys"
)

// Renewals lists what every restored guest must report as renewed.
func Renewals() []string {
	return []string{RenewClock, RenewRandom, RenewHostname, RenewMachineID, RenewNetwork, RenewBootID}
}

// Standing is what guests restored from one image template share for good, besides Shared.
const Standing = "what programs that ran already have in their memory"

// Shared lists what can't be made new in a restored guest.
func Shared() []string {
	return []string{
		"the kernel's address layout (KASLR)", "hash secrets the kernel chose while it booted",
		"the agent's own address layout and hash seeds",
	}
}

// FrozenLine is the line that a guest writes to its console once it is frozen and its host
// has disconnected from the channel. Then a template can be made.
const FrozenLine = "banger: frozen"

// Stage is one timed step of the guest's start, in microseconds of its uptime.
type Stage struct {
	Name   string `json:"name"`
	AtUS   int64  `json:"at_us"`
	TookUS int64  `json:"took_us"`
}

// Health says how a guest is.
type Health struct {
	Agent      string    `json:"agent"`
	Configured bool      `json:"configured"` // Identity was applied
	Init       string    `json:"init"`       // "", "starting", "running", "degraded", …: systemctl is-system-running, or "none"
	UptimeMS   int64     `json:"uptime_ms"`
	Time       time.Time `json:"time"` // the guest's wall clock
	Sessions   int       `json:"sessions"`
	// Incarnation is new after each start of the agent and of the VM, and ServingMS is how
	// long this one has taken requests. Older agents don't say.
	Incarnation string `json:"incarnation,omitempty"`
	ServingMS   int64  `json:"serving_ms,omitempty"`
	Streams     int    `json:"streams,omitempty"` // how many streams of clients use the guest
}

// ExecSpec is a command to run in the guest.
type ExecSpec struct {
	ID       string   `json:"id"`                  // chosen by the client, 32 hex digits; starting an id twice attaches to the first
	Argv     []string `json:"argv"`                // argv[0] is looked up in the guest's PATH; empty: the user's login shell
	Tool     string   `json:"tool,omitempty"`      // instead of a program of the image: "tar", "untar", "cp", "true", "sftp-server" of the agent itself; Argv[0] is then its name for messages
	Shell    bool     `json:"shell,omitempty"`     // the user's shell runs instead of Argv[0], with the same arguments
	Env      []string `json:"env,omitempty"`       // KEY=value, added to the guest's login environment
	Dir      string   `json:"dir,omitempty"`       // empty: the user's home
	User     string   `json:"user,omitempty"`      // name or uid[:gid]; empty: root
	TTY      *WinSize `json:"tty,omitempty"`       // a PTY of this size; nil: pipes
	Term     string   `json:"term,omitempty"`      // TERM for a PTY
	Stdin    bool     `json:"stdin"`               // false: /dev/null
	Detach   bool     `json:"detach,omitempty"`    // nobody will attach soon: never wait for a reader
	SpoolKiB int      `json:"spool_kib,omitempty"` // output kept for resuming; 0: the agent's default (4 MiB); bounded by it
}

// WinSize is a terminal's size in character cells.
type WinSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code   int    `json:"code"`             // 0–255; 128+n when a signal ended it; 126, 127 as a shell would say
	Signal string `json:"signal,omitempty"` // "KILL", "SEGV", …
	OOM    bool   `json:"oom,omitempty"`    // the kernel's OOM killer ended it
	Error  string `json:"error,omitempty"`  // why it never ran (with 126, 127)
	TookUS int64  `json:"took_us"`          // fork to wait, by the agent's clock
}

// Session describes one command the agent knows.
type Session struct {
	Spec    ExecSpec    `json:"spec"`
	PID     int         `json:"pid"`
	Started time.Time   `json:"started"`
	Exit    *ExitStatus `json:"exit,omitempty"`
	Stdout  int64       `json:"stdout"` // bytes written so far
	Stderr  int64       `json:"stderr"`
	Dropped int64       `json:"dropped"` // bytes of both that are no longer kept
}

// IO is the client's side of a session. A nil reader or writer is none.
type IO struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan WinSize
	Signals <-chan string // names without SIG: "INT", "TERM"
	// Gap is called when output was dropped before it could be read.
	Gap func(stream string, bytes int64)
	// Reconnect is called whenever the stream broke and another one is dialled.
	Reconnect func(err error)
}

// Notice is something the guest tells on a watch stream.
type Notice struct {
	Kind string `json:"kind"` // "poweroff", "reboot", "halt", "kexec": the guest's init has finished, the machine is about to end
	Text string `json:"text,omitempty"`
}
