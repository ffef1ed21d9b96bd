package unixsock_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/host/unixsock"
)

// A path beyond sun_path's 108 bytes is as good as any.
func TestPathsOfAnyLength(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), filepath.Join(dir, "s")} {
		if _, err := unixsock.Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("nobody there: %v", err)
		}
		short, done, err := unixsock.Short(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", short)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		done()
		c, err := unixsock.Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if pid, uid, err := unixsock.Peer(c); pid != os.Getpid() || uid != os.Getuid() || err != nil {
			t.Errorf("process %d of user %d, %v", pid, uid, err)
		}
	}
	if _, err := unixsock.Dial(t.Context(), filepath.Join(dir, "gone", "s")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// A socket is reached at any depth, and what a link leads to isn't.
func TestDialItself(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, link := filepath.Join(dir, "s"), filepath.Join(dir, "link")
	short, done, err := unixsock.Short(path)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := unixsock.DialItself(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if pid, _, err := unixsock.Peer(c); pid != os.Getpid() || err != nil {
		t.Errorf("process %d, %v", pid, err)
	}
	_ = c.Close()
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if c, err := unixsock.DialItself(t.Context(), link); err == nil {
		_ = c.Close()
		t.Error("a link was followed")
	}
	if _, err := unixsock.DialItself(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := unixsock.DialItself(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestPeerOfNone(t *testing.T) {
	t.Parallel()
	c, _ := net.Pipe()
	if pid, uid, err := unixsock.Peer(c); pid != -1 || uid != -1 || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("process %d of user %d, %v", pid, uid, err)
	}
}

// One descriptor comes with its bytes, or none; two are an error, and stay open no more
// than one does.
func TestReceive(t *testing.T) {
	t.Parallel()
	ours, file, err := unixsock.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := unixsock.Take(file)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 10)
	for _, fds := range [][]int{nil, {int(w.Fd())}, {int(w.Fd()), int(w.Fd())}} {
		var oob []byte
		if fds != nil {
			oob = unix.UnixRights(fds...)
		}
		if _, _, err := theirs.WriteMsgUnix([]byte("x"), oob, nil); err != nil {
			t.Fatal(err)
		}
		n, f, err := unixsock.Receive(ours, buf)
		if (err != nil) != (len(fds) > 1) || n != 1 || (f != nil) != (len(fds) == 1) {
			t.Fatalf("sent %d: %d bytes, %v, %v", len(fds), n, f, err)
		}
		if f != nil {
			f.Close()
		}
	}
	w.Close()
	if n, err := r.Read(buf); n != 0 || err == nil { // all that were received are closed
		t.Errorf("the pipe goes on: %d, %v", n, err)
	}
}

func TestTakeOfWhatIsNone(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Take(f); err == nil || !strings.Contains(err.Error(), "no Unix socket") {
		t.Errorf("TCP: %v", err)
	}
}
