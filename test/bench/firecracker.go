package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"banger"
	"banger/guest"
	"banger/guest/link"
)

// plainFirecracker is the floor on Firecracker: the same configuration file, which
// tells kernel, initramfs, disks and vsock, and the vsock asked until the guest's
// agent answers. The file is there while the VM runs.
func plainFirecracker(argv []string, dir string) (byHand, error) {
	config, err := os.ReadFile(filepath.Join(dir, "firecracker.json"))
	if err != nil {
		return byHand{}, fmt.Errorf("drive Firecracker by hand: it wants a VM outside of a jail: %w", err)
	}
	links, err := drives(dir)
	if err != nil {
		return byHand{}, err
	}
	return byHand{"plain Firecracker to the agent's answer", func(ctx context.Context) (time.Duration, error) {
		room, err := furnish(links)
		defer func() { _ = os.RemoveAll(room) }() // of a temporary directory
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(room, "c.json"), config, 0o600); err != nil {
			return 0, err
		}
		return alone(ctx, argv[0], room)
	}}, nil
}

// drives are the files that Firecracker knows by names in a running VM's directory.
func drives(dir string) (map[string]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "drive.*"))
	links := map[string]string{}
	for _, d := range names {
		if err == nil {
			links[filepath.Base(d)], err = os.Readlink(d)
		}
	}
	if err == nil && len(links) == 0 {
		err = fmt.Errorf("no drives in %s: it wants a VM outside of a jail", dir)
	}
	return links, err
}

// furnish makes a directory for a Firecracker, with its drives in it.
func furnish(links map[string]string) (room string, err error) {
	room, err = os.MkdirTemp("", "banger-bench")
	for name, to := range links {
		if err == nil {
			err = os.Symlink(to, filepath.Join(room, name))
		}
	}
	return room, err
}

// restoreFirecracker restores the template by a Firecracker that nothing but this
// function speaks to.
func (f fork) restoreFirecracker(ctx context.Context, vm banger.VM) (laps, error) {
	links := map[string]string{}
	for name, to := range f.drives {
		links[name] = f.of(vm, to)
	}
	room, err := furnish(links)
	defer func() { _ = os.RemoveAll(room) }() // of a temporary directory
	if err != nil {
		return nil, err
	}
	load, err := json.Marshal(map[string]any{
		"snapshot_path": filepath.Join(f.dir, "state"), "resume_vm": true,
		"mem_backend": map[string]string{"backend_type": "File", "backend_path": filepath.Join(f.dir, "ram")},
	})
	if err != nil {
		return nil, err
	}
	watch := newStopwatch()
	cmd := exec.Command(f.argv[0], "--id", "plain", "--api-sock", "a.sock")
	cmd.Dir, cmd.Stderr = room, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as ours has one
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	api, err := listening(filepath.Join(room, "a.sock"))
	if err != nil {
		return nil, err
	}
	defer api.Close()
	watch.lap("Firecracker's start")
	if _, err := fmt.Fprintf(api, "PUT /snapshot/load HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(load), load); err != nil {
		return nil, err
	}
	answer := make([]byte, 512)
	n, err := api.Read(answer)
	if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 204")) {
		return nil, fmt.Errorf("load the snapshot: %q, %w", answer[:n], err)
	}
	watch.lap("its state loaded")
	channel, err := listening(filepath.Join(room, "v.sock"))
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	if !connected(channel) {
		return nil, errors.New("the guest's agent doesn't listen")
	}
	return f.become(ctx, vm, channel, watch)
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
