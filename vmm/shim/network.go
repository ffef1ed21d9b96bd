package shim

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"banger"
	"banger/guest"
	"banger/host/proc"
	"banger/network/netns"
)

// network is a shim's user network, if it has one, and its published ports.
type network struct {
	start   StartNet
	jailer  Jailer
	running io.Closer

	ports     Ports
	recording sync.Mutex // held while the record's ports change and are written down
}

// Ports leads ports of the host into the guest.
type Ports interface {
	// Set publishes these and no others. Sockets that are given are used for theirs, and are
	// its from then on. On error nothing has changed.
	Set(ports []banger.Published, given []banger.Socket) error
	// Keep publishes those of a guest whose last shim died, each as soon as it can.
	Keep(ports []banger.Published)
	// Close ends all.
	Close()
}

// NewPorts returns Ports of a guest, none of them published. born is when it was started, or
// zero if it isn't new.
type NewPorts func(to guest.Dialer, born time.Time) Ports

// open starts it. Frames are nil with sockets.
func (n *network) open(cfg NetConfig, frames *os.File) (err error) {
	if n.start != nil {
		n.running, err = n.start(cfg, frames)
	}
	return err
}

func (n *network) close() {
	if n.running != nil {
		_ = n.running.Close() // the next start removes its socket, if nothing else does
	}
}

// bySockets reports whether the cable is a pair of sockets in the VM's directory.
func (n NetConfig) bySockets() bool { return n.Tap == "" && n.Pair == "" }

// command returns what spawns the VMM, and what to do when it was started.
func (s *shim) command() (cmd *exec.Cmd, started func() error, err error) {
	n := s.cfg.Net
	if len(s.cfg.Jail) > 0 {
		cmd, entered, err := s.net.jailer.Command(s.cfg.Argv[0], s.cfg.Dir, s.cfg.Jail)
		return cmd, func() error {
			if err := entered(); err != nil {
				return err
			}
			return s.joinNet()
		}, err
	}
	if n == nil || n.Tap == "" {
		return exec.Command(s.cfg.Argv[0], s.cfg.Argv[1:]...), func() error { return nil }, nil
	}
	cmd, received, err := netns.Command(s.cfg.Dir, n.Tap, n.Owner, s.cfg.Argv)
	return cmd, func() error {
		frames, err := received()
		if err != nil {
			return fmt.Errorf("network namespace: %w: %s", err, words(VMMLog))
		}
		return s.net.open(*n, frames)
	}, err
}

// rejoinNet takes over the network of a running VMM. An error is only logged: the VM runs on.
func (s *shim) rejoinNet() {
	if err := s.joinNet(); err != nil {
		fmt.Fprintln(os.Stderr, "the guest has no network any more:", err)
	}
}

// joinNet starts the network with the frames that the VMM, or its jail, has for us.
func (s *shim) joinNet() error {
	n := s.cfg.Net
	if n == nil || n.bySockets() {
		return nil
	}
	frames, err := s.takeFrames(*n)
	if err != nil {
		return err
	}
	return s.net.open(*n, frames)
}

// takeFrames returns the host's end of a jail's pair, or a packet socket on the TAP of a running VMM:
// the one that the VMM has open for us, or a new one if its jailer closed that.
func (s *shim) takeFrames(n NetConfig) (*os.File, error) {
	if n.Pair != "" {
		ctx, cancel := context.WithTimeout(context.Background(), requestWait)
		defer cancel()
		return s.net.jailer.Take(ctx, s.cfg.Dir, s.cfg.VMM, n.Pair)
	}
	if n.Owner == 0 {
		return proc.TakeFile(s.cfg.VMM, netns.FramesFD)
	}
	ns, err := proc.Namespace(s.cfg.VMM, "net")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netns.Join(ns, n.Tap)
}
