package shim_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/host/proc"
	"banger/network/netns"
	"banger/vmm/shim"
)

// echoNet is a user network that returns every frame.
func echoNet(_ shim.NetConfig, frames *os.File) (io.Closer, error) {
	if frames == nil {
		return nil, errors.New("no frames")
	}
	go func() {
		frame := make([]byte, 65536)
		for {
			n, err := frames.Read(frame)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = frames.Write(frame[:n])
			}
		}
	}()
	return frames, nil
}

// openTap opens a TAP that is there, as Firecracker does.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// frame sends a text as a frame and waits for it to come back.
func frame(tap *os.File, text string) error {
	const vnetHeader = 10 // struct virtio_net_hdr
	out := make([]byte, vnetHeader, 128)
	out = append(out, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5"...) // a protocol for experiments (IEEE 802)
	out = append(out, text...)
	if _, err := tap.Write(out); err != nil {
		return err
	}
	in := make([]byte, 2048)
	for {
		n, err := tap.Read(in)
		if err != nil {
			return err
		}
		if n >= len(out) && string(in[vnetHeader:len(out)]) == string(out[vnetHeader:]) {
			return nil
		}
	}
}

// A VMM gets a TAP in a namespace of its own, and its frames reach the shim, and
// the next shim; for root and for a user.
func TestTap(t *testing.T) {
	if _, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skip(err)
	}
	if os.Getuid() == 0 {
		t.Run("AsUser", func(t *testing.T) { asUser(t, "^TestTap$") })
		// A jailed VMM is another user, and holds no socket for the next shim.
		t.Run("Jailed", func(t *testing.T) { testTap(t, 65534) })
	}
	testTap(t, 0)
}

func testTap(t *testing.T, owner int) {
	cfg := config(t, "tap")
	cfg.Channel, cfg.Vsock, cfg.Up, cfg.Console = "v.sock", 512, "api.sock", ""
	cfg.Pipes = []shim.Pipe{{Name: "console.fifo", Log: shim.ConsoleFile, Console: true}, {Name: "log.fifo", Log: shim.VMMLog}}
	cfg.Net = &shim.NetConfig{Tap: "tap0", Owner: owner}
	if err := netns.Probe(t.Context(), exe(t)); err != nil {
		t.Skip(err)
	}
	st, err := shim.Spawn(t.Context(), exe(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, cfg.Dir, st.VMM) })
	console := filepath.Join(cfg.Dir, shim.ConsoleFile)
	order(t, cfg.Dir, "frame one")
	wantLogged(t, console, "came back: one")
	if _, err := os.Stat("/sys/class/net/tap0"); err == nil {
		t.Error("the TAP is seen on the host")
	}
	if err := proc.Kill(st.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	if _, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM); err != nil {
		t.Fatal(err)
	}
	order(t, cfg.Dir, "frame two")
	wantLogged(t, console, "came back: two")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.VMM.PID))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		wantLine(t, string(status), "CapEff:\t0000000000000000")
	}
	wantLine(t, string(status), "NoNewPrivs:\t1")
}

func wantLine(t *testing.T, text, line string) {
	t.Helper()
	if !strings.Contains(text, line+"\n") {
		t.Errorf("no line %q in %s", line, text)
	}
}

// asUser runs a test of this program again, as nobody.
func asUser(t *testing.T, run string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(exe(t)) // where a user may not look
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "shim.test")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+run, "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Env = []string{"TMPDIR=" + dir, "HOME=" + dir}
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
