package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/flow"
)

// listener takes connections for a test and gives each to serve.
func listener(t *testing.T, network, address string, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("listen on %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l
}

// shout answers with what it got in capitals once it has all of it.
func shout(conn net.Conn) {
	defer conn.Close()
	all, err := io.ReadAll(conn)
	if err == nil {
		_, _ = conn.Write(bytes.ToUpper(all))
	}
}

func TestConnectKeepsHalfClose(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	long := strings.Repeat("abcdefgh", 1<<17)
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"unix", filepath.Join(t.TempDir(), "s")}, {"unix", "@banger-test-" + guest.NewID()}} {
		l := listener(t, at[0], at[1], shout)
		conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: at[0], Address: l.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(conn, long)
			_ = conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != strings.ToUpper(long) {
			t.Errorf("%v: %d bytes, %v", at, len(got), err)
		}
		_ = conn.Close()
	}
}

// "localhost" is whatever address the port's listener has.
func TestLocalhostIsWhereTheListenerIs(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	for _, host := range []string{"127.0.0.1", "127.0.0.77", "::1", "0.0.0.0", "::"} {
		l := listener(t, "tcp", net.JoinHostPort(host, "0"), shout)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "tcp", Address: "localhost:" + port})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
			t.Errorf("%s: %q, %v", host, got, err)
		}
		_ = conn.Close()
		l.Close()
	}
}

func TestConnectSaysWhy(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	l := listener(t, "tcp", "127.0.0.1:0", shout)
	l.Close()
	for _, tt := range []struct {
		req  flow.DialRequest
		code string
		text string
	}{
		{flow.DialRequest{Network: "tcp", Address: l.Addr().String()}, guest.CodeUnavailable, "connection refused"},
		{flow.DialRequest{Network: "unix", Address: t.TempDir() + "/none"}, guest.CodeNotFound, "no such file or directory"},
		{flow.DialRequest{Network: "tcp", Address: "nothing"}, guest.CodeInvalid, "missing port"},
		{flow.DialRequest{Network: "carrier pigeon"}, guest.CodeInvalid, "no network is called"},
		{flow.DialRequest{Network: "unix", Address: "/x", User: "nobody-here"}, guest.CodeInvalid, "no user"},
	} {
		_, err := flow.Dial(deadline(t), c.Dial, tt.req)
		if guest.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%+v: %v (%s)", tt.req, err, guest.CodeOf(err))
		}
	}
	for _, req := range []flow.ListenRequest{{Network: "smoke"}, {Network: "tcp", Address: "x"}, {Network: "unix", Address: "/x", User: "nobody-here"}, {Network: "unix", Address: "/no/such/dir/s"}} {
		if _, err := flow.Listen(deadline(t), c.Dial, req); err == nil {
			t.Errorf("%+v listens", req)
		}
	}
}

// A client that dies in the middle isn't taken for one that has said all: its connection
// is reset. And a connection that is reset isn't taken for one that has ended.
func TestBrokenIsNoEnd(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	end := make(chan error, 1)
	l := listener(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, err := io.Copy(io.Discard, conn)
		end <- err
		conn.Close()
	})
	conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "tcp", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "half a wo"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := <-end; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the listener saw %v", err)
	}

	l = listener(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	})
	if conn, err = flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "tcp", Address: l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, flow.ErrBroken) {
		t.Errorf("the client saw %v", err)
	}
}

// A client that leaves after it has ended its direction leaves nothing open in the guest.
func TestClientLeavesHalfClosed(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	end := make(chan error, 1)
	l := listener(t, "unix", filepath.Join(t.TempDir(), "s"), func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		_, err := conn.Write([]byte("x"))
		for err == nil {
			_, err = conn.Write([]byte("x"))
		}
		end <- err
	})
	conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "unix", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	_ = conn.Close()
	if err := <-end; !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
}

func TestDatagrams(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		buf := make([]byte, flow.MaxDatagram)
		for {
			n, from, err := far.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = far.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	_, port, _ := net.SplitHostPort(far.LocalAddr().String())
	conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "udp", Address: "localhost:" + port})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, flow.MaxDatagram)
	for _, s := range []string{"a", "", strings.Repeat("b", flow.MaxDatagram), "c"} {
		if n, err := conn.Write([]byte(s)); err != nil || n != len(s) {
			t.Fatal(n, err)
		}
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != strings.ToUpper(s) {
			t.Fatalf("%d bytes came back of %d: %v", n, len(s), err)
		}
	}
	if _, err := conn.Write(make([]byte, flow.MaxDatagram+1)); err == nil {
		t.Error("a datagram that is too long was sent")
	}
}

func TestListen(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	dir := t.TempDir()
	for _, at := range [][2]string{{"tcp", "localhost:0"}, {"tcp", "127.0.0.1:0"}, {"unix", dir + "/s"}} {
		ctx, cancel := context.WithCancel(deadline(t))
		defer cancel()
		l, err := flow.Listen(ctx, c.Dial, flow.ListenRequest{Network: at[0], Address: at[1]})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				conn, err := net.Dial(at[0], l.Address)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello")
				_ = conn.(flow.Duplex).CloseWrite()
				if got, err := io.ReadAll(conn); err != nil || string(got) != "HELLO" {
					t.Errorf("%q, %v", got, err)
				}
			})
			conn, _, err := l.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				got, _ := io.ReadAll(conn)
				_, _ = conn.Write(bytes.ToUpper(got))
				_ = conn.CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			})
		}
		wg.Wait()
		_ = l.Close()
		eventually(t, "nobody listens any more", func() bool {
			conn, err := net.Dial(at[0], l.Address)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		if _, _, err := l.Accept(ctx); err == nil {
			t.Error("a closed listener accepts")
		}
	}
	if _, err := os.Lstat(dir + "/s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is left: %v", err)
	}
}

// A socket that nobody listens on is replaced; one that somebody does isn't.
func TestListenReplacesOnlyTheDead(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	path := t.TempDir() + "/s"
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if _, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix", Address: path}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("somebody listens there: %v", err)
	}
	dead.Close()
	l, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix", Address: path})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// What is no socket stays, and so does what has come to the path since.
func TestListenRemovesOnlyItsOwn(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	dir := t.TempDir()
	for name, make := range map[string]func(string) error{
		"file": func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
		"fifo": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"dir":  func(path string) error { return os.Mkdir(path, 0o700) },
		"link": func(path string) error { return os.Symlink("file", path) },
	} {
		if err := make(dir + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file", "fifo", "dir", "link"} {
		_, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix", Address: dir + "/" + name})
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if _, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix"}); guest.CodeOf(err) != guest.CodeInvalid || !strings.Contains(err.Error(), "a socket needs a path") {
		t.Errorf("no path: %v", err)
	}
	path := dir + "/s"
	l, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix", Address: path})
	if err != nil {
		t.Fatal(err)
	}
	// The socket itself stays under another name, so that its end can be seen.
	if err := os.Rename(path, dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	listener(t, "unix", path, shout)
	_ = l.Close()
	eventually(t, "it listens no more", func() bool {
		conn, err := net.Dial("unix", dir+"/moved")
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's socket is gone: %v", err)
	}
}

// Another user's listener on an address of its own doesn't get what is for 127.0.0.1.
func TestLocalhostIsFirstOfAllLocalhost(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	l := listener(t, "tcp", "127.0.0.1:0", func(conn net.Conn) { _, _ = io.WriteString(conn, "right"); conn.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for i := range 8 {
		listener(t, "tcp", fmt.Sprintf("127.0.0.%d:%s", i+2, port), func(conn net.Conn) { conn.Close() })
	}
	conn, err := flow.Dial(deadline(t), c.Dial, flow.DialRequest{Network: "tcp", Address: "localhost:" + port})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "right" {
		t.Errorf("%q, %v", got, err)
	}
}

// The path of an "agent" stays while clients come and go, and leads to the latest that is
// still there.
func TestAgentPathStays(t *testing.T) {
	s := &agent.Server{}
	s.Callers.Dir = filepath.Join(t.TempDir(), "agents")
	c := openAgent(t, s)
	ctx := deadline(t)
	var clients []*flow.Listener
	join := func() *flow.Listener {
		l, err := flow.Listen(ctx, c.Dial, flow.ListenRequest{Network: "agent"})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, l)
		return l
	}
	reaches := func(l *flow.Listener) {
		t.Helper()
		conn, err := net.Dial("unix", clients[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		taken, _, err := l.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = taken.Close()
	}
	first := join()
	reaches(first)
	second := join()
	if second.Address != first.Address {
		t.Errorf("%s and %s", first.Address, second.Address)
	}
	reaches(second)
	_ = second.Close()
	eventually(t, "the second has left", func() bool { return s.Callers.Clients() == 1 })
	reaches(first)
	_ = first.Close()
	eventually(t, "the socket is gone", func() bool {
		_, err := os.Lstat(first.Address)
		return errors.Is(err, os.ErrNotExist)
	})
}

// What the agent does for a user it does with the user's rights.
func TestConnectionsHaveTheirUsersRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	const user = 65534
	c := openAgent(t, &agent.Server{})
	dir, err := os.MkdirTemp("/tmp", "banger-test-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	who := make(chan uint32, 1)
	listener(t, "unix", dir+"/s", func(conn net.Conn) {
		defer conn.Close()
		raw, _ := conn.(*net.UnixConn).SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				who <- cred.Uid
			}
		})
	})
	req := flow.DialRequest{Network: "unix", Address: dir + "/s", User: "65534"}
	if _, err := flow.Dial(deadline(t), c.Dial, req); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a user reaches a socket of root: %v", err)
	}
	if err := os.Chmod(dir+"/s", 0o666); err != nil {
		t.Fatal(err)
	}
	conn, err := flow.Dial(deadline(t), c.Dial, req)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid := <-who; uid != user {
		t.Errorf("the listener sees user %d", uid)
	}
	if _, err := flow.Listen(deadline(t), c.Dial, flow.ListenRequest{Network: "unix", Address: dir + "/t", User: "65534"}); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a user listens in a directory of root: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Error("the agent isn't root any more")
	}
}

func TestPorts(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	want := map[string]bool{}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := listener(t, "tcp", address, shout)
		want["tcp "+l.Addr().String()] = true
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	want["udp "+u.LocalAddr().String()] = true
	ports, err := flow.Ports(deadline(t), c.Dial)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		at := p.Network + " " + net.JoinHostPort(p.Address, strconv.Itoa(int(p.Port)))
		if !want[at] {
			continue
		}
		delete(want, at)
		if p.PID != os.Getpid() || p.Process == "" || p.User == "" {
			t.Errorf("%+v", p)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}
