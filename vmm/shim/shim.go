// Package shim is the one small process every running VM has beside its VMM,
// and the client of that process. A shim spawns the VMM and holds what must
// survive the daemon: the channel to the guest, the user network, the bounded
// console log, and the VMM's exit status. The daemon may die at any byte and
// nothing breaks; a shim that dies is replaced by one that attaches to the same
// sockets, and only open streams and network connections are lost.
//
// It refuses to know hypervisors (a VMM is a command line, sockets it listens on
// and pipes it writes), what streams say beyond asking the guest for signs of life, and
// all of the daemon's state: everything it needs is in its [Config].
package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger"
)

// The files a shim keeps in its VM's directory, besides the sockets named in
// the Config. All are 0600.
const (
	ConfigFile  = "shim.json"   // the Config, for a successor
	LockFile    = "shim.lock"   // locked by the one shim there is (flock(2))
	SocketFile  = "shim.sock"   // where it is asked
	ExitFile    = "exit.json"   // a banger.Exit; there when, and only when, the VMM has ended
	VMMLog      = "vmm.log"     // what the VMM printed; older bytes in vmm.log.1
	ConsoleFile = "console.log" // the guest's console; older bytes in console.log.1
	logFile     = "shim.log"    // the shim's own last words
)

// DefaultLogLimit bounds a log and its older half together, in bytes.
const DefaultLogLimit = 1 << 20

// Config is all a shim needs: plain data.
type Config struct {
	ID       string     `json:"id"`                  // the VM's
	Dir      string     `json:"dir"`                 // the VM's directory, absolute; also the VMM's working directory
	Argv     []string   `json:"argv"`                // the VMM; argv[0] is an absolute path
	Channel  string     `json:"channel"`             // path in Dir of the socket the VMM listens on: the guest's port
	Vsock    uint32     `json:"vsock,omitempty"`     // Channel leads to this port of the guest's by "CONNECT port"; 0: it is the port
	Up       string     `json:"up,omitempty"`        // path in Dir of the socket whose listening says that the VMM runs; empty: Channel
	Console  string     `json:"console,omitempty"`   // path in Dir of the socket that is the guest's console; empty: none
	Pipes    []Pipe     `json:"pipes,omitempty"`     // what the VMM writes to FIFOs
	Net      *NetConfig `json:"net,omitempty"`       // the user network; nil: none
	LogLimit int64      `json:"log_limit,omitempty"` // bytes per log; 0: DefaultLogLimit

	// Filled in by the shim when it has spawned the VMM.
	VMM  banger.Process `json:"vmm,omitzero"`
	Shim banger.Process `json:"shim,omitzero"`
}

// Pipe is a FIFO in the VM's directory that the VMM writes and the shim reads. The
// VMM holds it open both ways, so that a shim's death neither ends nor blocks it:
// what nobody reads is dropped when the pipe is full (pipe(7)), and a new shim
// finds the rest.
type Pipe struct {
	Name    string `json:"name"`
	Log     string `json:"log"`               // the file its bytes are kept in, bounded
	Owner   int    `json:"owner,omitempty"`   // user id of a VMM that isn't ours; 0: ours
	Console bool   `json:"console,omitempty"` // it is the VMM's standard output, and that the guest's console
}

// NetConfig is the user network a shim holds: the guest's side, and the cable.
// That is a pair of Unix datagram sockets in the VM's directory, or a TAP device
// in a network namespace that only the VMM is in, made for it.
type NetConfig struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // the guest's, CIDR
	Gateway string `json:"gateway"`
	DNS     string `json:"dns"`
	Local   string `json:"local,omitempty"`  // path the VMM binds
	Remote  string `json:"remote,omitempty"` // path the shim binds
	Tap     string `json:"tap,omitempty"`    // instead of both: the TAP's name
	Owner   int    `json:"owner,omitempty"`  // user id of a VMM that isn't ours; 0: ours
}

// StartNet starts the user network; closing what it returns ends it, and closes
// frames: where the guest's frames are read and written, with a TAP, else nil.
type StartNet func(c NetConfig, frames *os.File) (io.Closer, error)

// Status is what a shim says of itself.
type Status struct {
	VMM         banger.Process `json:"vmm"`
	Shim        banger.Process `json:"shim"`
	Established bool           `json:"established"` // the guest's agent is on the channel
	Started     time.Time      `json:"started"`     // this shim
}

// ErrNoShim means that no shim answers in that directory and that none has left
// word of its VMM's end: it was killed, or never started.
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

// writeJSON replaces a file in one step. It isn't synced: after a power cut
// there is no VMM it could speak of.
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

// removeAll removes files that may not be there.
func removeAll(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
