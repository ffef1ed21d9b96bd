package shim_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/guest/link"
	"banger/vmm/publish"
	"banger/vmm/shim"
)

// The test binary plays the other processes too, so that what is killed in
// these tests is a process and what holds a socket is the kernel.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "fake-vmm" {
		fakeVMM(os.Args[2])
	}
	if len(os.Args) > 3 && os.Args[1] == "fake-daemon" {
		fakeDaemon(os.Args[2], os.Args[3])
	}
	worker := slices.Contains(os.Args, "-test.fuzzworker") // go test's own child
	if os.Getenv("BANGER_TEST_SHIM") != "" && !worker || len(os.Args) > 2 && os.Args[2] == "--become" {
		os.Exit(shim.Main(os.Args[1:], echoNet, nil, ports))
	}
	os.Setenv("BANGER_TEST_SHIM", "1")
	os.Exit(m.Run())
}

// ports publishes them as the program does.
func ports(to guest.Dialer, born time.Time) shim.Ports { return publish.New(to, born) }

// fakeVMM listens like a VMM, in its working directory, and plays the guest.
func fakeVMM(mode string) {
	if mode == "refuse" {
		fmt.Fprintln(os.Stderr, "fake-vmm: -drive: no such file")
		os.Exit(3)
	}
	if mode == "bus" { // Go's own process would say a lot and exit
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -BUS $$"}, nil)
	}
	if mode == "never" {
		_ = syscall.Pause() // an empty select would be a deadlock to Go, which ends the process
	}
	if mode == "vsock" || mode == "tap" {
		vsockVMM(mode)
		return
	}
	port := &chardev{listener: listen("chan.sock")}
	port.changed = sync.NewCond(&port.mu)
	console := &chardev{listener: listen("console.sock")}
	console.changed = sync.NewCond(&console.mu)
	go port.accept()
	go console.accept()
	console.wait()
	mux := link.New(link.Port(port), link.Guest)
	if mode != "serve" {
		realAgent(mode, mux, console)
	}
	serveStreams(mux, console)
}

// tap is the fake VMM's network card.
var tap *os.File

// vsockVMM is one whose guest listens on port 512 of a vsock, but not at once;
// whose console is its output; and which writes its log to a pipe.
func vsockVMM(mode string) {
	port := &chardev{listener: &vsockListener{Listener: listen("v.sock"), deaf: 3}}
	port.changed = sync.NewCond(&port.mu)
	go port.accept()
	listen("api.sock")
	log, err := os.OpenFile("log.fifo", os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	fmt.Fprintln(log, "fake-vmm: running")
	if mode == "tap" {
		if tap, err = openTap("tap0"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(5)
		}
	}
	serveStreams(link.New(link.Port(port), link.Guest), os.Stdout)
}

type vsockListener struct {
	net.Listener
	deaf int
}

func (l *vsockListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		line := make([]byte, len("CONNECT 512\n"))
		if _, err := io.ReadFull(c, line); err == nil && string(line) == "CONNECT 512\n" && l.deaf == 0 {
			fmt.Fprintf(c, "OK 1073741824\n")
			return c, nil
		}
		l.deaf = max(0, l.deaf-1)
		c.Close()
	}
}

func serveStreams(mux *link.Mux, console io.Writer) {
	held := map[uint32]*upload{}
	var mu sync.Mutex
	for {
		c, err := mux.Accept()
		if err != nil {
			os.Exit(4)
		}
		go func() {
			defer c.Close()
			var head [13]byte
			if _, err := io.ReadFull(c, head[:1]); err != nil {
				return
			}
			switch head[0] {
			case 'd', 'u':
				if _, err := io.ReadFull(c, head[1:]); err != nil {
					return
				}
				object, off := binary.BigEndian.Uint32(head[1:]), int64(binary.BigEndian.Uint64(head[5:]))
				if head[0] == 'd' {
					serveDownload(c, object, off)
					return
				}
				mu.Lock()
				u := held[object]
				if u == nil {
					u = &upload{}
					held[object] = u
				}
				mu.Unlock()
				serveUpload(c, u)
			case 'e': // echo
				io.Copy(c, c)
			case 'r': // says half, and breaks once that is heard
				_, _ = io.WriteString(c, "half")
				_, _ = c.Read(head[:1])
				c.(*link.Stream).Reset()
			case '!': // a command line
				line, _ := bufio.NewReader(c).ReadString('\n')
				command(console, strings.TrimSpace(line))
			}
		}()
	}
}

// realAgent answers with the agent's own server. "forge": somebody writes a
// kernel's last word to the console; "forge-busy": while the agent is too busy to
// answer once. "notice": the guest powers off; "notice WORDS": and does that.
func realAgent(mode string, mux *link.Mux, console io.Writer) {
	var asked atomic.Int32
	again := make(chan struct{})
	server := &agent.Server{Sessions: &session.Table{}, InitState: func() string {
		n := asked.Add(1)
		fmt.Fprintln(os.Stderr, "asked", n)
		if n == 1 && mode == "forge-busy" {
			<-again
		} else if n == 2 {
			close(again)
		}
		return "running"
	}}
	if mode == "forge" || mode == "forge-busy" {
		command(console, "say reboot: System halted")
		server.Serve(mux)
	} else {
		// Remembered, and told to the first who watches.
		server.Notify(backgroundContext, guest.Notice{Kind: "poweroff"})
		end := func() { os.Exit(0) }
		if _, words, more := strings.Cut(mode, " "); more {
			end = func() { command(console, words) }
		}
		server.Serve(untilConfirmed{mux, end})
	}
	os.Exit(8)
}

// untilConfirmed accepts the host's watch stream and ends the machine when the
// notice on it was confirmed: that is the second thing the host says there.
type untilConfirmed struct {
	net.Listener
	end func()
}

func (l untilConfirmed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &confirmed{Conn: c, end: l.end}, err
}

type confirmed struct {
	net.Conn
	end   func()
	reads int
}

func (c *confirmed) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.reads++; n > 0 && c.reads == 2 {
		c.end()
	}
	return n, err
}

// command does what a line says: "say TEXT" on the console, "print TEXT" on
// stderr, "exit N", "kill", "abort".
func command(console io.Writer, line string) {
	for part := range strings.SplitSeq(line, ";") {
		verb, arg, _ := strings.Cut(part, " ")
		switch verb {
		case "say":
			fmt.Fprintf(console, "[    1.234567] %s\r\n", arg)
		case "print":
			fmt.Fprintln(os.Stderr, arg)
		case "frame":
			if err := frame(tap, arg); err != nil {
				fmt.Fprintln(console, err)
			} else {
				fmt.Fprintln(console, "came back:", arg)
			}
		case "flood":
			for range 3000 {
				fmt.Fprintln(os.Stderr, strings.Repeat("x", 1000))
				fmt.Fprintln(console, strings.Repeat("y", 1000))
			}
		case "exit":
			n := 0
			fmt.Sscan(arg, &n)
			os.Exit(n)
		case "eat": // GiB after GiB
			for {
				b := make([]byte, 1<<30)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
			}
		case "abort":
			// Go itself would say much before it died of it.
			syscall.Exec("/bin/sh", []string{"sh", "-c", "ulimit -c 0; kill -ABRT $$"}, nil)
		case "kill":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

func listen(path string) net.Listener {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	return l
}

// chardev is a listening character device: one client at a time; what is
// written while there is none is lost.
type chardev struct {
	listener net.Listener
	mu       sync.Mutex
	changed  *sync.Cond
	conn     net.Conn
}

func (d *chardev) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			os.Exit(6)
		}
		d.mu.Lock()
		d.conn = c
		d.changed.Broadcast()
		for d.conn == c {
			d.changed.Wait()
		}
		d.mu.Unlock()
	}
}

func (d *chardev) current() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

func (d *chardev) drop(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == c {
		d.conn = nil
		c.Close()
		d.changed.Broadcast()
	}
}

func (d *chardev) Read(b []byte) (int, error) {
	c := d.current()
	if c == nil {
		return 0, io.EOF
	}
	n, err := c.Read(b)
	if err != nil {
		d.drop(c)
		return n, io.EOF // however it ended
	}
	return n, nil
}

func (d *chardev) Write(b []byte) (int, error) {
	if c := d.current(); c != nil {
		c.Write(b) // into a dead client: lost
	}
	return len(b), nil
}

// wait returns when somebody is connected.
func (d *chardev) wait() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.conn == nil {
		d.changed.Wait()
	}
}

func (d *chardev) Close() error { return nil }

// fakeDaemon joins connections with streams, as the daemon does, until killed.
func fakeDaemon(socket, dir string) {
	os.Remove(socket)
	l := listen(socket)
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(7)
		}
		go func() {
			defer c.Close()
			s, err := shim.Dial(backgroundContext, dir)
			if err != nil {
				return
			}
			defer s.Close()
			go func() {
				if _, err := io.Copy(s, c); err == nil {
					s.(*net.UnixConn).CloseWrite()
				}
			}()
			if _, err := io.Copy(c, s); err == nil {
				c.(*net.UnixConn).CloseWrite()
			}
		}()
	}
}
