// Package shim is the small process that every running VM has beside its VMM, and the client
// of that process. A shim spawns the VMM and has what must survive the daemon: the channel to
// the guest, the user network, the bounded console log, and the VMM's exit status. The daemon
// may die at any moment. A shim that dies is replaced by one that attaches to the same
// sockets; only open streams and network connections are lost.
//
// It knows nothing of hypervisors: to it a VMM is a command line, sockets and pipes. It
// doesn't read streams, except to ask the guest how it is, and has no state of the daemon:
// all that it needs is in its [Config].
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"banger"
)

// The files a shim keeps in its VM's directory, besides the sockets named in
// the Config. All are 0600.
const (
	ConfigFile  = "shim.json"   // the Config, for a shim that replaces this one
	LockFile    = "shim.lock"   // locked by the shim, so that there is one (flock(2))
	SocketFile  = "shim.sock"   // where it takes requests
	GroupFile   = "cgroup"      // where the VM's control group is, for package cgroup
	ExitFile    = "exit.json"   // a banger.Exit; exists only once the VMM has ended
	VMMLog      = "vmm.log"     // what the VMM printed; older bytes in vmm.log.1
	ConsoleFile = "console.log" // the guest's console; older bytes in console.log.1
	logFile     = "shim.log"    // the shim's own output
)

// DefaultLogLimit bounds a log and its older half together, in bytes.
const DefaultLogLimit = 1 << 20

// Config is all a shim needs: plain data.
type Config struct {
	ID       string          `json:"id"`                  // the VM's
	Dir      string          `json:"dir"`                 // the VM's directory, absolute; also the VMM's working directory
	Argv     []string        `json:"argv"`                // the VMM; argv[0] is an absolute path. With Jail: banger-jail alone
	Jail     json.RawMessage `json:"jail,omitempty"`      // the jail that the VMM runs in, for a Jailer; empty: none
	Channel  string          `json:"channel"`             // path in Dir of the socket the VMM listens on: the guest's port
	Vsock    uint32          `json:"vsock,omitempty"`     // on Channel "CONNECT port" leads to this port of the guest; 0: Channel is the port itself
	Up       string          `json:"up,omitempty"`        // path in Dir of the socket on which the VMM listens once it runs; empty: Channel
	Console  string          `json:"console,omitempty"`   // path in Dir of the socket that is the guest's console; empty: none
	Pipes    []Pipe          `json:"pipes,omitempty"`     // what the VMM writes to FIFOs
	Net      *NetConfig      `json:"net,omitempty"`       // the user network; nil: none
	LogLimit int64           `json:"log_limit,omitempty"` // bytes per log; 0: DefaultLogLimit
	Memory   int64           `json:"memory,omitempty"`    // bytes that shim, VMM and guest may have together, see MemoryBound; 0: any

	// Filled in by the shim when its ports were published, see Publish.
	Ports []banger.Published `json:"ports,omitempty"`
	// Filled in by the shim when it has spawned the VMM.
	VMM  banger.Process `json:"vmm,omitzero"`
	Shim banger.Process `json:"shim,omitzero"`
}

// Pipe is a FIFO in the VM's directory that the VMM writes and the shim reads. The VMM has it
// open for reading, too, so that a shim's death neither ends nor blocks the VMM. Without a
// reader, what doesn't fit into the pipe is dropped (pipe(7)), and a new shim reads the rest.
type Pipe struct {
	Name    string `json:"name"`
	Log     string `json:"log"`               // the file its bytes are kept in, bounded
	Owner   int    `json:"owner,omitempty"`   // user id of a VMM that isn't ours; 0: ours
	Console bool   `json:"console,omitempty"` // it is the VMM's standard output, which is the guest's console
}

// NetConfig is the user network of a shim: the guest's side, and the cable. The cable is a
// pair of Unix datagram sockets in the VM's directory, a TAP device in a network namespace
// that is made for the VMM, or a pair of its jail's.
type NetConfig struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // the guest's, CIDR
	Gateway string `json:"gateway"`
	DNS     string `json:"dns"`
	Local   string `json:"local,omitempty"`  // path the VMM binds
	Remote  string `json:"remote,omitempty"` // path the shim binds
	Tap     string `json:"tap,omitempty"`    // instead of both: the TAP's name
	Owner   int    `json:"owner,omitempty"`  // user id of a VMM that isn't ours; 0: ours
	Pair    string `json:"pair,omitempty"`   // instead of all three: the jail's pair that carries frames, each as one message
}

// UserNet returns the guest's side of a user network; nil if its network is another one, or
// none.
func UserNet(n banger.NetConfig) *NetConfig {
	if n.Mode != banger.NetUser {
		return nil
	}
	return &NetConfig{MAC: n.MAC, Address: n.Address, Gateway: n.Gateway, DNS: n.DNS}
}

// StartNet starts the user network. frames, with a TAP, is where the guest's frames are read
// and written; else it is nil. Closing what StartNet returns ends the network and closes
// frames.
type StartNet func(c NetConfig, frames *os.File) (io.Closer, error)

// Jailer runs VMMs in jails of ours. The first process of a jail is the VMM to all others.
type Jailer interface {
	// Command returns what starts a jail, and what to do then: it returns when the VMM was started.
	Command(program, dir string, spec json.RawMessage) (cmd *exec.Cmd, started func() error, err error)
	// Take returns the host's end of a pair of the jail in dir whose first process is first.
	Take(ctx context.Context, dir string, first banger.Process, pair string) (*os.File, error)
	// Ended returns the status with which the VMM in dir ended, if its jail saw that.
	Ended(dir string) (status syscall.WaitStatus, seen bool)
}

// Status is a shim's answer to a status request.
type Status struct {
	VMM         banger.Process `json:"vmm"`
	Shim        banger.Process `json:"shim"`
	Established bool           `json:"established"` // the guest's agent is on the channel
	Started     time.Time      `json:"started"`     // this shim
}

// ErrNoShim means that no shim answers in that directory, and that there is no record of the
// VMM's end: the shim was killed, or never started.
var ErrNoShim = banger.Killed(errors.New("no shim answers"))

func (c *Config) check() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("shim: directory %q is not absolute", c.Dir)
	case len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]):
		return fmt.Errorf("shim: VMM %q is not an absolute path", c.Argv)
	}
	names := []string{c.Channel, c.Up, c.Console}
	for _, p := range c.Pipes {
		if p.Name == "" || p.Log == "" {
			return errors.New("shim: a pipe without a name or a log")
		}
		names = append(names, p.Name, p.Log)
	}
	for _, name := range names {
		if !filepath.IsLocal(name) && name != "" {
			return fmt.Errorf("shim: %q is not in the VM's directory", name)
		}
	}
	if c.Channel == "" {
		return errors.New("shim: no channel socket")
	}
	if c.LogLimit <= 0 {
		c.LogLimit = DefaultLogLimit
	}
	return nil
}

// readJSON decodes a file of ours.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step. It doesn't sync: after a power cut there is no VMM
// that the file could be about.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
