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
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/host/proc"
	"banger/host/published"
	"banger/host/unixsock"
)

const (
	maxReply      = 64 << 10
	giveUp        = 5 * time.Second // from SIGTERM to SIGKILL for a shim whose start is undone
	answerTimeout = 2 * time.Second // a healthy shim answers within milliseconds, a stopped one not at all
)

// Spawn starts a shim, the program exe, which spawns the VMM; it returns when the VMM listens
// on its channel. The shim outlives the caller. If the VMM ended at once, the error has the
// end of its output. On error, and when ctx ends first, nothing is left.
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

// Attach starts a shim for a running VMM whose shim has died, or returns the status of the
// shim that lives. It is no error if the VMM has ended meanwhile: Wait says so.
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
	proc.Detach(cmd)
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
		_ = cmd.Wait() // its report and files say all
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

// killOrphan ends the VMM of a shim that died before it could do so itself. If the record is
// another shim's, whose VMM lives, it does nothing.
func killOrphan(dir string, shim banger.Process) error {
	var cfg Config
	if err := readJSON(filepath.Join(dir, ConfigFile), &cfg); err != nil || cfg.Shim != shim {
		return nil // no record: there was no VMM
	}
	return proc.Kill(cfg.VMM, unix.SIGKILL)
}

// Dial opens one stream to the guest's agent, and waits for a booting guest until ctx ends.
// The connection is a *net.UnixConn, with half-close. When the stream breaks, reads return
// io.EOF: so the protocol on a stream must mark its end itself.
func Dial(ctx context.Context, dir string) (net.Conn, error) {
	conn, err := request(ctx, dir, wanted{Op: "dial", Control: guest.IsControl(ctx)})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Publish makes ports the only ones that are published of the guest, now and by every shim after
// this one. Sockets that are held are used for theirs. On error nothing has changed.
func Publish(ctx context.Context, dir string, ports []banger.Published, held []banger.Socket) error {
	what := wanted{Op: "publish", Ports: ports}
	for _, s := range held {
		what.Held = append(what.Held, s.Published)
	}
	conn, err := request(ctx, dir, what)
	if err != nil {
		return err
	}
	defer conn.Close()
	if len(held) == 0 {
		return nil
	}
	if err := published.Send(conn, held); err != nil {
		return errors.Join(ErrNoShim, err)
	}
	return heard(ctx, conn)
}

// GetStatus asks a shim how it is.
func GetStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	conn, err := ask(ctx, dir, wanted{Op: "status"})
	if err != nil {
		return s, err
	}
	defer conn.Close()
	return s, hear(ctx, conn, &s)
}

// Ask is GetStatus of a shim that may be stopped, and answers at once otherwise.
func Ask(ctx context.Context, dir string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return GetStatus(ctx, dir)
}

// Halted tells a new shim that its guest had halted before it took over. If no agent answers,
// the shim ends the VMM.
func Halted(ctx context.Context, dir string) error {
	return order(ctx, dir, "halted")
}

// Release makes the shim disconnect from the guest's channel for good. It returns when the
// guest, which sees that, has written guest.FrozenLine to its console.
func Release(ctx context.Context, dir string) error {
	return order(ctx, dir, "release")
}

func order(ctx context.Context, dir, op string) error {
	conn, err := request(ctx, dir, wanted{Op: op})
	if err != nil {
		return err
	}
	return conn.Close()
}

// request sends a request and waits for its result.
func request(ctx context.Context, dir string, what wanted) (*net.UnixConn, error) {
	conn, err := ask(ctx, dir, what)
	if err != nil {
		return nil, err
	}
	return conn, heard(ctx, conn)
}

// heard waits for an answer. It closes the connection on error.
func heard(ctx context.Context, conn *net.UnixConn) error {
	var a answer
	switch err := hear(ctx, conn, &a); {
	case err != nil:
		return err
	case a.Why != nil:
		return errors.Join(a.Why, conn.Close())
	case a.Error != "":
		return errors.Join(errors.New(a.Error), conn.Close())
	}
	return nil
}

// Find returns a machine's shim, a process of the program exe: the one that answers in its
// directory, else the saved one, else one that is just starting.
func Find(ctx context.Context, exe, dir string, saved banger.Process) (banger.Process, bool) {
	if st, err := Ask(ctx, dir); err == nil {
		return st.Shim, true
	}
	p := Program(exe)
	is := func(s proc.Sight) bool {
		id, ours := p.VM(s, filepath.Dir(dir))
		return ours && id == filepath.Base(dir)
	}
	if s, err := proc.Look(saved.PID); err == nil && s.Process == saved && is(s) {
		return saved, true
	}
	return proc.Find(p.Likely, is)
}

// Program says how shims of the program exe are recognised.
func Program(exe string) proc.Program {
	likely := func(other, _ string) bool { return filepath.Base(other) == filepath.Base(exe) }
	return proc.Program{Kind: "shim", Likely: likely, VM: func(s proc.Sight, vms string) (id string, ours bool) {
		if !likely(s.Exe, "") || s.User != os.Getuid() || len(s.Argv) < 2 {
			return "", false
		}
		dir := filepath.Clean(s.Argv[1])
		real, _ := filepath.EvalSymlinks(vms) // on an error there is no other name
		return filepath.Base(dir), filepath.Dir(dir) == vms || filepath.Dir(dir) == real
	}}
}

// Launched returns the command line of the VMM that the last shim in dir was told to
// spawn; nil when there was none.
func Launched(dir string) []string {
	var cfg Config
	if readJSON(filepath.Join(dir, ConfigFile), &cfg) != nil {
		return nil
	}
	return cfg.Argv
}

// Wait waits until the VMM has ended and returns how. ErrNoShim means that there is no shim
// to see it: attach another one and wait again.
func Wait(ctx context.Context, dir string) (banger.Exit, error) {
	var exit banger.Exit
	conn, err := ask(ctx, dir, wanted{Op: "wait"})
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
func ask(ctx context.Context, dir string, what wanted) (*net.UnixConn, error) {
	c, err := unixsock.Dial(ctx, filepath.Join(dir, SocketFile))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrNoShim, err)
	}
	if err := json.NewEncoder(c).Encode(what); err != nil {
		return nil, errors.Join(ErrNoShim, err, c.Close())
	}
	return c, nil
}

// hear reads one line and not a byte more, as a stream's bytes may follow. It closes the
// connection on error. ErrNoShim means that the shim ended before it answered.
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
