package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/kernel/initramfs"
	"banger/test/bench/bare"
)

// startBare boots a bare guest with the command line of a VM that is stopped.
func startBare(argv []string, kernelDir, vmDir string) (*floor, error) {
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
	g := &floor{buf: make([]byte, bare.Piece), end: func() { _, _ = cmd.Process.Kill(), cmd.Wait() }}
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
	if _, err := g.reads(bare.Reads, 1); err != nil {
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
