package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"banger/guest"
	"banger/link"
)

// plainFirecracker is the floor on Firecracker: the same configuration file, which
// tells kernel, initramfs, disks and vsock, and the vsock asked until the guest's
// agent answers. The file is there while the VM runs.
func plainFirecracker(argv []string, dir string) (byHand, error) {
	config, err := os.ReadFile(filepath.Join(dir, "firecracker.json"))
	if err != nil {
		return byHand{}, fmt.Errorf("drive Firecracker by hand: it wants a VM outside of a jail: %w", err)
	}
	drives, err := filepath.Glob(filepath.Join(dir, "drive.*"))
	if err != nil {
		return byHand{}, err
	}
	links := map[string]string{}
	for _, d := range drives {
		if links[filepath.Base(d)], err = os.Readlink(d); err != nil {
			return byHand{}, err
		}
	}
	return byHand{"plain Firecracker to the agent's answer", func(ctx context.Context) (time.Duration, error) {
		room, err := os.MkdirTemp("", "banger-bench")
		if err != nil {
			return 0, err
		}
		defer func() { _ = os.RemoveAll(room) }() // of a temporary directory
		for name, to := range links {
			if err := os.Symlink(to, filepath.Join(room, name)); err != nil {
				return 0, err
			}
		}
		if err := os.WriteFile(filepath.Join(room, "c.json"), config, 0o600); err != nil {
			return 0, err
		}
		return alone(ctx, argv[0], room)
	}}, nil
}

// alone is the smallest program that drives Firecracker.
func alone(ctx context.Context, firecracker, dir string) (time.Duration, error) {
	start := time.Now()
	cmd := exec.Command(firecracker, "--id", "plain", "--api-sock", "a.sock", "--config-file", "c.json")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as ours has one
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ctx, cancel := context.WithDeadline(ctx, start.Add(3*time.Minute))
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(dir, "v.sock"))
		if err != nil {
			continue
		}
		if !connected(conn) {
			_ = conn.Close()
			continue
		}
		mux := link.New(conn, link.Host)
		client := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return mux.Open(ctx) }}
		_, err = client.Health(ctx)
		took := time.Since(start)
		_ = mux.Close()
		return took, err
	}
	return 0, fmt.Errorf("nobody answered: %w", ctx.Err())
}

// connected asks for the agent's port and reports whether somebody listens there
// (Firecracker's docs/vsock.md). What follows the answer's line is the stream.
func connected(conn net.Conn) bool {
	_, err := fmt.Fprintf(conn, "CONNECT 512\n")
	var line []byte
	for one := make([]byte, 1); err == nil && one[0] != '\n'; line = append(line, one...) {
		_, err = conn.Read(one)
	}
	return err == nil && bytes.HasPrefix(line, []byte("OK "))
}
