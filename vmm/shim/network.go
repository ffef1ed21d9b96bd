package shim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"banger/netns"
)

// network is a shim's user network, if it has one.
type network struct {
	start   StartNet
	running io.Closer
}

// open starts it. Frames are nil with sockets.
func (n *network) open(cfg NetConfig, frames *os.File) (err error) {
	if n.start != nil {
		n.running, err = n.start(cfg, frames)
	}
	return err
}

func (n *network) close() {
	if n.running != nil {
		_ = n.running.Close() // its socket is cleared by the next start at the latest
	}
}

// command returns what spawns the VMM, and what to do when it was started.
func (s *shim) command() (cmd *exec.Cmd, started func() error, err error) {
	n := s.cfg.Net
	if n == nil || n.Tap == "" {
		cmd = exec.Command(s.cfg.Argv[0], s.cfg.Argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd, func() error { return nil }, nil
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

// rejoinNet takes a living VMM's network over. A VM is worth more than its network:
// what fails is only said.
func (s *shim) rejoinNet() {
	n := s.cfg.Net
	if n == nil || n.Tap == "" {
		return
	}
	frames, err := netns.Rejoin(s.cfg.VMM, n.Tap, n.Owner)
	if err == nil {
		err = s.net.open(*n, frames)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the guest has no network any more:", err)
	}
}
