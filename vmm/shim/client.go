package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/proc"
	"banger/unixsock"
)

const (
	maxReply = 64 << 10
	giveUp   = 5 * time.Second // from SIGTERM to SIGKILL for a shim whose start is taken back
)

// Spawn starts a shim, the program exe, which spawns the VMM; it returns when
// the VMM listens on its channel. The shim lives on whatever becomes of its
// starter. The error of a VMM that ended at once holds its last words; on error,
// and when ctx ends first, nothing that was started is left.
func Spawn(ctx context.Context, exe string, cfg Config) (Status, error) {
	if err := cfg.check(); err != nil {
		return Status{}, err
	}
	in, err := json.Marshal(cfg)
	if err != nil {
		return Status{}, err
	}
	return start(ctx, cfg.Dir, in, exe, cfg.Dir)
}

// Attach starts a shim for a VMM that runs already, in place of one that died,
// or returns the status of the one that lives. A VMM that has ended meanwhile is
// no error: Wait says so.
func Attach(ctx context.Context, exe, dir string, vmm banger.Process) (Status, error) {
	if st, err := GetStatus(ctx, dir); err == nil {
		return st, nil
	}
	p, err := json.Marshal(vmm)
	if err != nil {
		return Status{}, err
	}
	return start(ctx, dir, nil, exe, dir, string(p))
}

// start runs a shim until it reports.
func start(ctx context.Context, dir string, in []byte, exe string, args ...string) (Status, error) {
	stderr, err := os.OpenFile(filepath.Join(dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return Status{}, err
	}
	defer stderr.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		return Status{}, err
	}
	defer out.Close()
	cmd := exec.Command(exe, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", stdout, stderr
	if in != nil {
		cmd.Stdin = bytes.NewReader(in)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = stdout.Close() // the shim has its own
	if err != nil {
		return Status{}, fmt.Errorf("start shim: %w", err)
	}
	self, err := proc.Read(cmd.Process.Pid)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Status{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // a shim tells of itself by its report and its files
	}()
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var r report
	err = json.NewDecoder(io.LimitReader(out, maxReply)).Decode(&r)
	switch {
	case err == nil && r.Error == nil:
		return r.Status, nil
	case err == nil && r.Killed:
		err = banger.Killed(r.Error)
	case err == nil:
		err = r.Error
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		err = banger.Killed(fmt.Errorf("shim ended: %s", words(filepath.Join(dir, logFile))))
	}
	err = errors.Join(err, proc.Kill(self, unix.SIGTERM))
	select {
	case <-ended:
	case <-time.After(giveUp):
		err = errors.Join(err, proc.Kill(self, unix.SIGKILL))
		<-ended
	}
	if in != nil {
		err = errors.Join(err, killOrphan(dir, self))
	}
	return Status{}, err
}

// killOrphan ends the VMM of a shim that died before it could do so itself. The
// record may also be another shim's, whose VMM lives.
func killOrphan(dir string, shim banger.Process) error {
	var cfg Config
	if err := readJSON(filepath.Join(dir, ConfigFile), &cfg); err != nil || cfg.Shim != shim {
		return nil // no record: there was no VMM
	}
	return proc.Kill(cfg.VMM, unix.SIGKILL)
}

// Dial opens one stream to the guest's agent, waiting for a booting guest until
// ctx ends. The connection is a *net.UnixConn, with half-close. It ends when the
// stream breaks, and that looks like an end of file: what is spoken on a stream
// must have an end of its own.
func Dial(ctx context.Context, dir string) (net.Conn, error) {
	conn, err := ask(ctx, dir, "dial")
	if err != nil {
		return nil, err
	}
	var a answer
	if err := hear(ctx, conn, &a); err != nil {
		return nil, err
	}
	if a.Error != "" {
		return nil, errors.Join(errors.New(a.Error), conn.Close())
	}
	return conn, nil
}

// GetStatus asks a shim how it is.
func GetStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	conn, err := ask(ctx, dir, "status")
	if err != nil {
		return s, err
	}
	defer conn.Close()
	return s, hear(ctx, conn, &s)
}

// Halted tells a shim that its guest has halted, for one that took over after
// the guest had said so. If no agent answers, the shim ends the VMM.
func Halted(ctx context.Context, dir string) error {
	conn, err := ask(ctx, dir, "halted")
	if err != nil {
		return err
	}
	defer conn.Close()
	var a answer
	if err := hear(ctx, conn, &a); err != nil || a.Error == "" {
		return err
	}
	return errors.New(a.Error)
}

// Release has the shim let go of the guest's channel for good and returns when
// the guest has said on its console that it is frozen (guest.FrozenLine), which
// it does once it has seen that.
func Release(ctx context.Context, dir string) error {
	conn, err := ask(ctx, dir, "release")
	if err != nil {
		return err
	}
	var a answer
	if err := hear(ctx, conn, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.Join(errors.New(a.Error), conn.Close())
	}
	return conn.Close()
}

// Wait returns how the VMM ended, when it has. ErrNoShim means that nobody is
// there to see it: attach another and wait again.
func Wait(ctx context.Context, dir string) (banger.Exit, error) {
	var exit banger.Exit
	conn, err := ask(ctx, dir, "wait")
	if err == nil {
		defer conn.Close()
		err = hear(ctx, conn, &exit)
	}
	if errors.Is(err, ErrNoShim) {
		// The file is written before the socket is closed.
		exit = banger.Exit{}
		if ferr := readJSON(filepath.Join(dir, ExitFile), &exit); !errors.Is(ferr, fs.ErrNotExist) {
			err = ferr
		}
	}
	return exit, err
}

// ask connects to a shim and says what is wanted.
func ask(ctx context.Context, dir, op string) (*net.UnixConn, error) {
	c, err := unixsock.Dial(ctx, filepath.Join(dir, SocketFile))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrNoShim, err)
	}
	if err := json.NewEncoder(c).Encode(request{Op: op}); err != nil {
		return nil, errors.Join(ErrNoShim, err, c.Close())
	}
	return c, nil
}

// hear reads one line and not a byte more: a stream's bytes follow. It closes
// the connection on error; ErrNoShim means that the shim ended before it
// answered.
func hear(ctx context.Context, conn *net.UnixConn, v any) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	line, err := readLine(conn)
	if !stop() {
		return errors.Join(ctx.Err(), conn.Close())
	}
	if err == nil {
		err = json.Unmarshal(line, v)
	} else {
		err = fmt.Errorf("%w: %w", ErrNoShim, err)
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	return nil
}

func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < maxReply; {
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
	return nil, errors.New("reply is too long")
}
