package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/kernel/initramfs"
)

// The bare guest is this program as a machine's /init, alone on the port that a VM's
// agent has: it reads, writes and echoes what it is told to. What it is told is an
// order byte and a number of bytes, big endian.
const (
	bareReads  = 'r' // so many bytes, then answers with one
	bareFeeds  = 'f' // likewise, by a command's stdin
	bareWrites = 'w'
	barePasses = 'p' // likewise, what a command writes
	bareEchoes = 'e' // each byte, by itself
	bareOrder  = 9
	barePiece  = 32 << 10 // what Linux takes in one write of a port
)

// bareCommand is the name by which the bare guest runs itself as its command, with a
// number of bytes: it writes so many zeros, or reads to the end if there are none.
const bareCommand = "bare-command"

// command is that command, with dd's blocks of 64 KiB.
func command(n int64) {
	buf := make([]byte, 64<<10)
	if n == 0 {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{os.Stdin}, buf)
		return
	}
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := os.Stdout.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return
		}
	}
}

// bareInit is the bare guest. It doesn't return: a kernel panics whose init ends, and
// the console has to say why it did.
func bareInit() {
	fmt.Println("the bare guest ended:", bareGuest())
	time.Sleep(time.Hour)
}

func bareGuest() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	modules, _ := filepath.Glob("/lib/banger/early/*.ko") // sorted; the pattern is well-formed
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	port, err := barePort()
	if err != nil {
		return err
	}
	buf := make([]byte, barePiece)
	for {
		if _, err := io.ReadFull(waiting{port}, buf[:bareOrder]); err != nil {
			return err
		}
		if err := bareObey(port, buf[0], int64(binary.BigEndian.Uint64(buf[1:])), buf); err != nil {
			return err
		}
	}
}

// barePort waits for the machine's only port, whose node comes before it can be opened.
func barePort() (*os.File, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		ports, _ := filepath.Glob("/dev/vport*") // the pattern is well-formed
		for _, name := range ports {
			port, err := os.OpenFile(name, os.O_RDWR, 0)
			if err == nil || time.Now().After(end) {
				return port, err
			}
		}
		if time.Now().After(end) {
			return nil, errors.New("no port came")
		}
	}
}

func bareObey(port *os.File, order byte, n int64, buf []byte) error {
	switch order {
	case bareReads:
		for n > 0 {
			k, err := port.Read(buf[:min(n, barePiece)])
			if err != nil {
				return err
			}
			n -= int64(k)
		}
		_, err := port.Write(buf[:1])
		return err
	case bareFeeds:
		cmd := exec.Command("/init", "0")
		cmd.Args[0] = bareCommand
		w, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		for n > 0 && err == nil {
			var k int
			if k, err = port.Read(buf[:min(n, barePiece)]); err == nil {
				_, err = w.Write(buf[:k])
			}
			n -= int64(k)
		}
		if err := errors.Join(err, w.Close(), cmd.Wait()); err != nil {
			return err
		}
		_, err = port.Write(buf[:1])
		return err
	case barePasses:
		cmd := exec.Command("/init", strconv.FormatInt(n, 10))
		cmd.Args[0] = bareCommand
		r, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		for n > 0 && err == nil {
			var k int
			if k, err = r.Read(buf[:min(n, barePiece)]); err == nil {
				_, err = port.Write(buf[:k])
			}
			n -= int64(k)
		}
		return errors.Join(err, cmd.Wait())
	case bareWrites:
		for ; n > 0; n -= barePiece {
			if _, err := port.Write(buf[:min(n, barePiece)]); err != nil {
				return err
			}
		}
	case bareEchoes:
		for ; n > 0; n-- {
			if _, err := io.ReadFull(port, buf[:1]); err != nil {
				return err
			}
			if _, err := port.Write(buf[:1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// waiting is a port whose end of file means that no host is there yet.
type waiting struct{ port *os.File }

func (w waiting) Read(b []byte) (int, error) {
	for {
		n, err := w.port.Read(b)
		if n > 0 || err != io.EOF {
			return n, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// bare is the host's side of a bare guest.
type bare struct {
	conn net.Conn
	cmd  *exec.Cmd
	buf  []byte
}

// startBare boots a bare guest with the command line of a VM that is stopped.
func startBare(argv []string, kernelDir, vmDir string) (*bare, error) {
	at := slices.Index(argv, "-initrd")
	if at < 0 || at+1 == len(argv) {
		return nil, fmt.Errorf("the VM has no initramfs: %q", argv)
	}
	initrd := filepath.Join(vmDir, "bare.initramfs")
	if err := bareInitramfs(initrd, filepath.Join(kernelDir, "boot-modules/early")); err != nil {
		return nil, err
	}
	argv = slices.Clone(argv)
	argv[at+1] = initrd
	for _, sock := range []string{"console.sock", "chan.sock", "qmp.sock"} {
		_ = os.Remove(filepath.Join(vmDir, sock)) // of the run before
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = vmDir
	var words bytes.Buffer
	cmd.Stderr = &words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL} // a session as ours has one: sched(7), "The autogroup feature"
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &bare{cmd: cmd, buf: make([]byte, barePiece)}
	var console tail
	if c, err := listening(filepath.Join(vmDir, "console.sock")); err == nil {
		go func() { _, _ = io.Copy(&console, c); _ = c.Close() }()
	}
	conn, err := listening(filepath.Join(vmDir, "chan.sock"))
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("no channel: %w: %s", err, words.String())
	}
	g.conn = conn
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := g.reads(bareReads, 1); err != nil {
		g.Close()
		return nil, fmt.Errorf("the bare guest doesn't answer: %w; its console: %q", err, console.text())
	}
	_ = conn.SetDeadline(time.Time{})
	return g, nil
}

// bareInitramfs writes one with this program as /init and the modules that a port needs.
func bareInitramfs(path, dir string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var modules []initramfs.Module
	for _, f := range files {
		_, name, _ := strings.Cut(strings.TrimSuffix(f.Name(), ".ko"), "-")
		if !slices.Contains([]string{"virtio", "virtio_ring", "virtio_mmio", "virtio_console"}, name) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		modules = append(modules, initramfs.Module{Name: name, Data: data})
	}
	var b bytes.Buffer
	if err := initramfs.Build(&b, self, modules, nil); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

func (g *bare) order(what byte, n int64) error {
	_, err := g.conn.Write(binary.BigEndian.AppendUint64([]byte{what}, uint64(n)))
	return err
}

// reads has the guest read n bytes, by itself or through a command (bareReads, bareFeeds).
func (g *bare) reads(how byte, n int64) (time.Duration, error) {
	start := time.Now()
	err := g.order(how, n)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{g.conn}, io.LimitReader(zeros{}, n), g.buf)
	}
	if err == nil {
		_, err = io.ReadFull(g.conn, g.buf[:1])
	}
	return time.Since(start), err
}

// writes has the guest write n bytes, its own or a command's (bareWrites, barePasses).
func (g *bare) writes(how byte, n int64) (time.Duration, error) {
	start := time.Now()
	err := g.order(how, n)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(g.conn, n), g.buf)
	}
	return time.Since(start), err
}

// echoes has the guest echo n bytes, each by itself.
func (g *bare) echoes(n int) ([]time.Duration, error) {
	if err := g.order(bareEchoes, int64(n)); err != nil {
		return nil, err
	}
	return strokes(n, g.conn, g.conn)
}

// Close ends the machine.
func (g *bare) Close() {
	if g.conn != nil {
		_ = g.conn.Close()
	}
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// tail keeps the last that was written to it.
type tail struct {
	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-2000):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last)
}
