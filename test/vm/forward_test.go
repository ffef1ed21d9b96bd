package vm_test

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/test/vmtest"
)

// forward leads there and back as long as it runs, over ports and sockets, and over a daemon and a shim
// that die.
func TestForward(t *testing.T) {
	h := vmtest.Shared
	name := h.NewVM(t)
	h.OK(t, "exec", "-d", name, "--", "perl", "-e", echoes)
	socket := filepath.Join(t.TempDir(), "s")
	forward := func(args ...string) (said []string, end func() error) {
		c := h.Command(t.Context(), append([]string{"forward", name}, args...)...)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range len(args) {
			if strings.HasPrefix(args[0], "--") && len(said) == len(args)-1 {
				break
			}
			if !lines.Scan() {
				t.Fatalf("%q ended: %v", args, c.Wait())
			}
			where, _, _ := strings.Cut(lines.Text(), " of ")
			said = append(said, where)
		}
		return said, func() error {
			_ = c.Process.Signal(syscall.SIGINT)
			return c.Wait()
		}
	}
	said, end := forward("0:80", socket+":80")
	wantForward := func(network, address string) {
		t.Helper()
		vmtest.Until(t, "it is carried to "+address, time.Minute, func() bool {
			c, err := net.Dial(network, address)
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(vmtest.Patience(10 * time.Second)))
			if _, err := io.WriteString(c, "on"); err != nil {
				return false
			}
			b := make([]byte, 2)
			_, err = io.ReadFull(c, b)
			return err == nil && string(b) == "on"
		})
	}
	wantForward("tcp", said[0])
	wantForward("unix", said[1])
	vmtest.Kill(t, h.Daemon(t))
	wantForward("tcp", said[0])
	killShim := func() { // by what runs: the record may still name the one before
		t.Helper()
		id := h.Show(t, name).ID
		for _, p := range h.Processes() {
			if p.Kind == "shim" && p.VM == id {
				vmtest.Kill(t, p.PID)
				return
			}
		}
		t.Fatal("there is no shim")
	}
	killShim()
	wantForward("tcp", said[0])
	if err := end(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	if _, err := net.Dial("unix", socket); err == nil {
		t.Error("it still listens")
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "from the host\n")
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, end = forward("--reverse", "8123:"+port)
	read := []string{"exec", name, "--", "perl", "-MIO::Socket::INET", "-e", `print IO::Socket::INET->new("127.0.0.1:8123")->getline`}
	if got := h.OK(t, read...); got != "from the host\n" {
		t.Errorf("the VM read %q", got)
	}
	killShim()
	vmtest.Until(t, "it listens in the VM again", time.Minute, func() bool {
		return string(h.Run(nil, read...).Stdout) == "from the host\n"
	})
	if err := end(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}
