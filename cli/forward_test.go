package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

// hello listens and says hello to whoever comes.
func hello(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_ = c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// leadWay opens a way into a guest that is this process, and serves it. While cut is set its
// agent can't be reached.
func leadWay(t *testing.T, text string, reverse bool, cut *atomic.Bool) *way {
	t.Helper()
	path := t.TempDir() + "/a"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- (&agent.Server{Sessions: &session.Table{}}).Serve(l) }()
	t.Cleanup(func() { _ = l.Close(); <-served })
	w, err := newWay(text, reverse)
	if err != nil {
		t.Fatal(err)
	}
	a := &App{Err: io.Discard}
	ctx, cancel := context.WithCancel(t.Context())
	err = w.open(ctx, a, func(ctx context.Context) (net.Conn, error) {
		if cut.CompareAndSwap(true, false) {
			return nil, errors.New("not now")
		}
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- w.serve(ctx, a, banger.VM{}) }()
	t.Cleanup(func() { cancel(); w.close(); <-ended })
	return w
}

// read returns what an address says within some seconds.
func read(t *testing.T, address string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	return string(text), err
}

// A way into a VM is this user's.
func TestForwardRefusesOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another user's process wants root")
	}
	w := leadWay(t, "0:"+hello(t), false, new(atomic.Bool))
	if got, err := read(t, w.Listen); err != nil || got != "hello\n" {
		t.Errorf("its user reads %q, %v", got, err)
	}
	_, port, _ := net.SplitHostPort(w.Listen)
	for uid, want := range map[uint32]string{0: "hello\n", 65534: ""} {
		c := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+" && echo x >&3 && cat <&3")
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := c.Output(); string(out) != want {
			t.Errorf("user %d reads %q, %v", uid, out, err)
		}
	}
}

// A listener in the VM of which a connection can't be taken is opened again where it was.
func TestForwardListensAgain(t *testing.T) {
	var cut atomic.Bool
	w := leadWay(t, "0:"+hello(t), true, &cut)
	at := w.Listen
	if got, err := read(t, at); err != nil || got != "hello\n" {
		t.Fatalf("read %q, %v", got, err)
	}
	cut.Store(true)
	if got, err := read(t, at); err == nil && got != "" {
		t.Fatalf("the agent is away, and read %q", got)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		got, err := read(t, at)
		if err == nil && got == "hello\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it listens at %s no more: %q, %v", at, got, err)
		}
	}
}
