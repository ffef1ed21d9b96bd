package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"banger/guest"
	"banger/test/bench/bare"
)

// floor is the host's side of a bare guest.
type floor struct {
	conn net.Conn
	end  func() // ends the program or the machine
	buf  []byte
}

// putBare starts a bare guest beside a VM's agent.
func putBare(ctx context.Context, client *guest.Client, vmDir string) (*floor, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	put := guest.ExecSpec{Argv: []string{"sh", "-c", "cat >/tmp/bench && chmod 700 /tmp/bench"}, Stdin: true}
	if status, err := client.Exec(ctx, put, guest.IO{Stdin: self}); err != nil || status.Code != 0 {
		return nil, fmt.Errorf("put this program into the guest: %+v, %w", status, err)
	}
	said, stdout := io.Pipe()
	signals := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		status, err := client.Exec(ctx, guest.ExecSpec{Argv: []string{"/tmp/bench", bare.Here}}, guest.IO{Stdout: stdout, Stderr: stdout, Signals: signals})
		_ = stdout.CloseWithError(fmt.Errorf("the bare guest ended: %+v, %w", status, err))
	}()
	g := &floor{buf: make([]byte, bare.Piece), end: func() { signals <- "KILL"; <-done }}
	line := make([]byte, len(bare.Ready)+1)
	if _, err = io.ReadFull(said, line); err == nil && string(line) != bare.Ready+"\n" {
		err = fmt.Errorf("the bare guest says %q", line)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	if err == nil {
		g.conn, err = net.Dial("unix", filepath.Join(vmDir, "v.sock"))
	}
	if err == nil {
		_, err = fmt.Fprintf(g.conn, "CONNECT %d\n", bare.Port)
	}
	for answer := line[:0]; err == nil && !bytes.HasSuffix(answer, []byte("\n")); {
		_, err = io.ReadFull(g.conn, line[len(answer):len(answer)+1])
		answer = line[:len(answer)+1]
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *floor) order(what byte, n int64) error {
	_, err := g.conn.Write(binary.BigEndian.AppendUint64([]byte{what}, uint64(n)))
	return err
}

// reads has the guest read n bytes, by itself or through a command (bare.Reads, bare.Feeds).
func (g *floor) reads(how byte, n int64) (time.Duration, error) {
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

// writes has the guest write n bytes, its own or a command's (bare.Writes, bare.Passes).
func (g *floor) writes(how byte, n int64) (time.Duration, error) {
	start := time.Now()
	err := g.order(how, n)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(g.conn, n), g.buf)
	}
	return time.Since(start), err
}

// echoes has the guest echo n bytes, each by itself.
func (g *floor) echoes(n int) ([]time.Duration, error) {
	if err := g.order(bare.Echoes, int64(n)); err != nil {
		return nil, err
	}
	return strokes(n, g.conn, g.conn)
}

// Close ends it.
func (g *floor) Close() {
	if g.conn != nil {
		_ = g.conn.Close()
	}
	g.end()
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
