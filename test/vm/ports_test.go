package vm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/test/vmtest"
)

// echoes says back what comes to port 80 and to UDP port 7, each connection up to its end. On port 81 it
// talks without end.
const echoes = `use IO::Socket::INET; use IO::Select; $SIG{CHLD} = $SIG{PIPE} = "IGNORE";
$t = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 81, Listen => 9, ReuseAddr => 1) or die;
if (!fork) { while ($c = $t->accept) { next if fork; print $c "x" x 65536 while 1 } }
close $t;
$u = IO::Socket::INET->new(LocalPort => 7, Proto => "udp") or die;
$l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 80, Listen => 1024, ReuseAddr => 1) or die;
$s = IO::Select->new($l, $u);
while (1) { for $h ($s->can_read) {
	if ($h == $l) { $c = $l->accept and $s->add($c) }
	elsif ($h == $u) { $h->recv($b, 65536); $h->send($b) }
	elsif (sysread($h, $b, 65536)) { syswrite($h, $b) }
	else { $s->remove($h); close $h }
} }`

// hostPort is where this host leads to a port of a VM.
func hostPort(t *testing.T, name string, guest int) int {
	t.Helper()
	for _, p := range vmtest.Shared.Show(t, name).Spec.Ports {
		if p.Guest == guest {
			return p.Port
		}
	}
	t.Fatalf("port %d of %s isn't published", guest, name)
	return 0
}

// echo sends words over a new connection and returns what comes back up to its end.
func echo(address, words string) (string, error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(vmtest.Patience(time.Minute))); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, words); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	back, err := io.ReadAll(c)
	return string(back), err
}

func wantEcho(t *testing.T, what, address string) {
	t.Helper()
	if got, err := echo(address, what); got != what || err != nil {
		t.Errorf("%s: %q, %v", what, got, err)
	}
}

// open is a connection that has said something and heard it.
func open(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	goesOn(t, c)
	return c
}

func goesOn(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(vmtest.Patience(time.Minute)))
	if _, err := io.WriteString(c, "on"); err != nil {
		t.Error(err)
	}
	b := make([]byte, 2)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "on" {
		t.Errorf("%q, %v", b, err)
	}
}

// Published ports belong to the VM: whatever dies beside it, they lead there.
func TestPublishedPorts(t *testing.T) {
	h := vmtest.Shared
	name := h.NewVM(t, "--memory", "1G", "-p", "80", "-p", "0:7/udp", "-p", "81")
	serve := func() { h.OK(t, "exec", "-d", name, "--", "perl", "-e", echoes) }
	serve()
	port := hostPort(t, name, 80)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	wantEcho(t, "IPv4", address)
	if c, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = c.Close()
		wantEcho(t, "IPv6", fmt.Sprintf("[::1]:%d", port))
	}

	t.Run("UDP", func(t *testing.T) {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", hostPort(t, name, 7)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, size := range []int{1, 1400, 9000} {
			want, got := bytes.Repeat([]byte("u"), size), make([]byte, 65536)
			vmtest.Until(t, "the datagram comes back", time.Minute, func() bool {
				_, _ = c.Write(want)
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				n, err := c.Read(got)
				return err == nil && bytes.Equal(got[:n], want)
			})
		}
	})

	t.Run("a thousand at once", func(t *testing.T) {
		var all []net.Conn
		for range 1000 {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			all = append(all, c)
			if _, err := io.WriteString(c, "on"); err != nil {
				t.Fatal(err)
			}
		}
		for i, c := range all {
			b := make([]byte, 2)
			_ = c.SetDeadline(time.Now().Add(vmtest.Patience(2 * time.Minute)))
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	})

	t.Run("slow readers", func(t *testing.T) {
		for range 4 {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", hostPort(t, name, 81)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.ReadFull(c, make([]byte, 65536)); err != nil {
				t.Fatal(err)
			}
		}
		wantEcho(t, "beside those that don't read", address)
	})

	t.Run("the daemon dies", func(t *testing.T) {
		c := open(t, address)
		vmtest.Kill(t, h.Daemon(t))
		goesOn(t, c)
		wantEcho(t, "without a daemon", address)
		h.Show(t, name) // starts one
		goesOn(t, c)
		wantEcho(t, "with the next daemon", address)
	})

	t.Run("the shim dies", func(t *testing.T) {
		c := open(t, address)
		vmtest.Kill(t, h.Show(t, name).Held.Shim.PID)
		_ = c.SetDeadline(time.Now().Add(vmtest.Patience(time.Minute)))
		if n, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection of a dead shim: %d bytes, %v", n, err)
		}
		vmtest.Until(t, "the next shim listens", time.Minute, func() bool {
			got, err := echo(address, "again")
			return got == "again" && err == nil
		})
	})

	t.Run("set", func(t *testing.T) {
		c := open(t, address)
		h.OK(t, "vm", "set", "--unpublish", "80", "-p", "0:80", name)
		if c, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("still there: %v, %v", c, err)
		}
		goesOn(t, c)
		port = hostPort(t, name, 80)
		address = fmt.Sprintf("127.0.0.1:%d", port)
		wantEcho(t, "another port", address)
		h.OK(t, "vm", "set", "-p", "80", name) // is published already
		if n := len(h.Show(t, name).Spec.Ports); n != 3 {
			t.Errorf("%d ports", n)
		}
	})

	t.Run("taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, taken, _ := net.SplitHostPort(l.Addr().String())
		before := h.Show(t, name).Spec.Ports
		for _, asked := range []string{taken + ":82", fmt.Sprintf("%d:82", port)} {
			for _, args := range [][]string{{"vm", "set", "-p", asked, name}, {"vm", "create", "-y", "--name", "unmade", "-p", asked}} {
				if r := h.Run(nil, args...); r.Status != 4 || !strings.Contains(string(r.Stderr), "free") && args[1] == "create" {
					t.Errorf("%q: %d, %s", args, r.Status, r.Stderr)
				}
			}
		}
		if after := h.Show(t, name).Spec.Ports; fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%v became %v", before, after)
		}
		if strings.Contains(h.OK(t, "ps", "-q"), "unmade") {
			t.Error("a VM was made without its port")
		}
		wantEcho(t, "as before", address)
	})

	t.Run("restart", func(t *testing.T) {
		h.OK(t, "vm", "restart", name)
		serve()
		wantEcho(t, "after a restart", address)
	})

	h.OK(t, "stop", name)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("the port of a VM that is stopped: %v", err)
	} else {
		_ = l.Close()
	}
}
