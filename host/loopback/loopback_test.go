package loopback_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/host/loopback"
)

// dialAs connects from a process of another user, which says what it was answered.
const dialAs = "BANGER_TEST_DIAL"

func TestMain(m *testing.M) {
	if to := os.Getenv(dialAs); to != "" {
		c, err := net.Dial("tcp", to)
		if err == nil {
			_, err = c.Write([]byte("hello\n"))
		}
		if err == nil {
			_, err = io.Copy(os.Stdout, c)
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func listen(t *testing.T) []net.Listener {
	t.Helper()
	all, err := loopback.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		t.Cleanup(func() { _ = l.Close() })
	}
	return all
}

func TestUser(t *testing.T) {
	for _, l := range listen(t) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := loopback.User(got); err != nil || uid != os.Getuid() {
			t.Errorf("%s: user %d, %v", l.Addr(), uid, err)
		}
		// Once nobody has it open the kernel says that it is root's, which this test may be.
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(got); err != nil {
			t.Fatal(err)
		}
		if uid, err := loopback.User(got); err == nil {
			t.Errorf("%s: somebody who has left is user %d", l.Addr(), uid)
		}
		_ = got.Close()
	}
}

// Another user of the host is told why, and whoever is meant is served.
func TestMine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another user's process wants root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where the other user may run it.
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "loopback")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := dir + "/dial"
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, raw := range listen(t) {
		noticed := make(chan error, 8)
		l := loopback.Mine(raw, "not for you\n", func(err error) { noticed <- err })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("welcome\n"))
				_ = c.Close()
			}
		}()
		for i, uid := range []uint32{65534, 0, 65534, 65534} {
			want := map[uint32]string{0: "welcome\n", 65534: "not for you\n"}[uid]
			cmd := exec.Command(program)
			cmd.Env = []string{dialAs + "=" + raw.Addr().String()}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil && !strings.Contains(errs.String(), "reset") || string(out) != want {
				t.Errorf("%s, user %d: %q, %v %s", raw.Addr(), uid, out, err, errs.String())
			}
			if i == 0 {
				if err := <-noticed; !strings.Contains(err.Error(), "user 65534 connected to") {
					t.Error(err)
				}
			}
		}
		if n := len(noticed); n != 0 {
			t.Errorf("%s: told of %d more within a minute", raw.Addr(), n)
		}
	}
}

// A socket of IPv6 may be connected to 127.0.0.1, as Java's are.
func TestUserOfMapped(t *testing.T) {
	l := listen(t)[0]
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port}
	copy(to.Addr[:], net.IPv4(127, 0, 0, 1).To16())
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if uid, err := loopback.User(c); err != nil || uid != os.Getuid() {
		t.Errorf("%s: user %d, %v", c.RemoteAddr(), uid, err)
	}
}

// full is a listener of a process that has no file descriptor left at first.
type full struct {
	net.Listener
	times int
}

func (l *full) Accept() (net.Conn, error) {
	if l.times--; l.times >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

// A process without room takes the connection later. A listener that is closed ends.
func TestNoRoom(t *testing.T) {
	raw := listen(t)[0]
	l := loopback.Mine(&full{raw, 2}, "", func(err error) { t.Error(err) })
	here, err := net.Dial("tcp", raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = here.Close() }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// What fails at ::1 for want of a file descriptor doesn't mean that there is no ::1.
func TestNotAbsent(t *testing.T) {
	if len(listen(t)) < 2 {
		t.Skip("this host has no ::1")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	free := f.Fd()
	_ = f.Close()
	var was, one unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	one = unix.Rlimit{Cur: uint64(free) + 1, Max: was.Max} // room for 127.0.0.1 alone
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &one); err != nil {
		t.Fatal(err)
	}
	all, err := loopback.Listen(0)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		_ = l.Close()
	}
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("listens on %d addresses, %v", len(all), err)
	}
}

func TestTaken(t *testing.T) {
	all := listen(t)
	port := all[0].Addr().(*net.TCPAddr).Port
	if again, err := loopback.Listen(port); err == nil {
		t.Errorf("port %d is listened on twice: %v", port, again)
	}
	free, err := loopback.Free(port)
	if err != nil || free <= port {
		t.Fatalf("after %d port %d is free, %v", port, free, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(free))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
