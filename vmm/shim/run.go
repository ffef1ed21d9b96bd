package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
	"banger/host/proc"
	"banger/network/netns"
)

// Bounds of a shim's own steps.
const (
	lockWait  = 5 * time.Second // a killed shim may still be dying
	termGrace = 2 * time.Second // from SIGTERM to SIGKILL for a VMM that must end
	lastWords = 1 << 10         // bytes of a log that go into an error
	drain     = time.Second     // for what a VMM wrote just before it ended
)

// report is the line that a new shim sends to the process that started it.
type report struct {
	Status Status        `json:"status,omitzero"`
	Error  *banger.Error `json:"error,omitempty"`
	Killed bool          `json:"killed,omitempty"` // somebody killed the VMM
}

// Main is the shim's process: `banger-shim DIR` takes its Config from stdin
// and spawns the VMM, `banger-shim DIR PROCESS` attaches to the one that runs,
// `banger-shim DIR --become TAP UID VMM...` is a child of the first that becomes the
// VMM. It returns the exit status.
func Main(args []string, startNet StartNet, jailer Jailer, publish NewPorts) int {
	if len(args) > 1 && args[1] == netns.Become {
		err := netns.Enter(args[2:])
		fmt.Fprintln(os.Stderr, err) // into the VMM's log
		return 1
	}
	// Let the VMM inherit only what we hand to it. Before Linux 5.11 there is no such flag;
	// Go's own files are close-on-exec anyway.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	unix.Umask(0o077)
	// Catch these: a VMM would inherit that they are ignored. The process that started us may
	// be dead when we report.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGPIPE)
	// SIGTERM undoes a start. After that a shim lives as long as its VMM.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	say := func(r report) { _ = json.NewEncoder(os.Stdout).Encode(r) }
	debug.SetMemoryLimit(OwnBound * 5 / 6) // from where on the runtime collects sooner
	cfg, attach, err := config(args)
	if err == nil {
		err = Run(ctx, cfg, attach, startNet, jailer, publish, func(s Status) { say(report{Status: s}) })
	}
	if err != nil {
		say(report{Error: banger.AsError(banger.During("shim", err)), Killed: errors.Is(err, banger.ErrKilled)})
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func config(args []string) (cfg Config, attach bool, err error) {
	switch len(args) {
	case 1:
		err = json.NewDecoder(os.Stdin).Decode(&cfg)
		if err == nil && cfg.Dir != args[0] {
			err = fmt.Errorf("configuration is for %s", cfg.Dir)
		}
	case 2:
		attach = true
		if err = readJSON(args[0]+"/"+ConfigFile, &cfg); err == nil {
			err = json.Unmarshal([]byte(args[1]), &cfg.VMM)
		}
		cfg.Dir = args[0]
	default:
		err = errors.New("usage: banger-shim DIR [PROCESS]")
	}
	if err != nil {
		return Config{}, false, err
	}
	return cfg, attach, cfg.check()
}

// shim is the running process.
type shim struct {
	cfg     Config
	self    banger.Process
	started time.Time
	cmd     *exec.Cmd // nil when attached
	net     network
	channel *channel
	trace   trace
	memory  memory

	listening chan struct{}  // closed when the console is connected
	ended     chan struct{}  // closed when the VMM has ended
	fate      fate           // set before ended
	settled   chan struct{}  // closed when exit.json is there
	exit      banger.Exit    // set before settled
	serving   sync.WaitGroup // connections
	drained   sync.WaitGroup // readers of the VMM's and the guest's output
}

// Run runs the shim. It spawns the VMM of cfg, or attaches to cfg.VMM, calls ready, and
// returns when the VMM has ended and those who wait for that were told. If the start fails, or
// ctx ends before ready was called, nothing is left of it; after that ctx has no effect. It
// changes the working directory to cfg.Dir, so that no socket's path is too long.
func Run(ctx context.Context, cfg Config, attach bool, startNet StartNet, jailer Jailer, publish NewPorts, ready func(Status)) error {
	if err := os.Chdir(cfg.Dir); err != nil {
		return err
	}
	lock, err := takeLock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	s := &shim{
		cfg: cfg, started: time.Now(), channel: newChannel(cfg.Channel, cfg.Vsock),
		listening: make(chan struct{}), ended: make(chan struct{}), settled: make(chan struct{}),
	}
	born := s.started
	if attach {
		born = time.Time{}
	}
	s.net.ports = publish(func(ctx context.Context) (net.Conn, error) { return s.channel.open(ctx) }, born)
	defer s.net.ports.Close()
	if s.self, err = proc.Self(); err != nil {
		return err
	}
	s.cfg.Shim = s.self
	if err := s.clear(attach); err != nil {
		return err
	}
	s.memory.enter(ctx, s.cfg, attach)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketFile, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	s.net.start, s.net.jailer = startNet, jailer
	defer s.net.close()
	if cfg.Net != nil && cfg.Net.bySockets() {
		if err := s.net.open(*cfg.Net, nil); err != nil {
			return err
		}
	}
	if err := s.startVMM(ctx, attach); err != nil {
		return err
	}
	if attach {
		s.net.ports.Keep(s.cfg.Ports)
	}
	go s.serve(l)
	ready(s.state())
	<-s.ended
	return s.settle(l)
}

// takeLock makes sure that there is one shim.
func takeLock(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	f, err := hostfs.OpenLocked(ctx, LockFile)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(errors.New("another shim holds this VM"), err)
	}
	return f, err
}

// clear removes what an earlier shim left.
func (s *shim) clear(attach bool) error {
	if attach {
		if _, err := os.Stat(ExitFile); err == nil {
			return errors.New("this VM has ended")
		}
		return hostfs.Remove(SocketFile)
	}
	stale := []string{ExitFile, SocketFile, s.cfg.Channel, VMMLog, VMMLog + ".1"}
	if s.cfg.Up != "" {
		stale = append(stale, s.cfg.Up)
	}
	return errors.Join(hostfs.Remove(stale...), makePipes(s.cfg.Pipes))
}

// startVMM spawns or attaches to the VMM and connects to its sockets. A VMM it
// spawned is ended again on error.
func (s *shim) startVMM(ctx context.Context, attach bool) error {
	pipes, err := openPipes(s.cfg.Pipes)
	if err != nil && !attach { // a VM that runs isn't ended because of its logs
		return err
	}
	if attach {
		go s.watchVMM()
		s.rejoinNet()
	} else if err := s.spawn(); err != nil {
		return fmt.Errorf("spawn VMM: %w", err)
	}
	if err := writeJSON(ConfigFile, s.cfg); err != nil {
		return errors.Join(err, s.takeBack(attach))
	}
	live, cancel := context.WithCancel(context.Background())
	go func() {
		<-s.ended
		cancel()
	}()
	s.drained.Go(func() { s.channel.keep(live) })
	s.drained.Go(func() { s.follow(live) })
	for i, f := range pipes {
		s.drained.Go(func() { s.readPipe(live, s.cfg.Pipes[i], f) })
	}
	s.drained.Go(func() { s.watchGuest(live) })
	go boundVMMLog(live, s.cfg.LogLimit)
	if attach {
		select { // a stopped VMM answers later
		case <-s.listening:
		case <-s.ended:
		case <-time.After(drain):
		}
		return nil
	}
	var running <-chan struct{} = s.channel.connected
	if s.cfg.Up != "" {
		running = listens(live, s.cfg.Up)
	}
	for _, up := range []<-chan struct{}{running, s.listening} {
		select {
		case <-up:
		case <-s.ended:
			return StartError("VMM", s.exitNow())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("start of the VMM: %w", ctx.Err()), s.takeBack(attach))
		}
	}
	return nil
}

// takeBack ends a VMM whose start failed.
func (s *shim) takeBack(attach bool) error {
	if attach {
		return nil
	}
	err := proc.Kill(s.cfg.VMM, unix.SIGKILL)
	<-s.ended
	return err
}

func (s *shim) spawn() error {
	// O_APPEND: the log is cut while the VMM writes, see boundVMMLog.
	log, err := os.OpenFile(VMMLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, joined, err := s.command()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	for _, p := range s.cfg.Pipes {
		if p.Console {
			out, err := os.OpenFile(p.Name, os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			defer out.Close()
			cmd.Stdout = out
		}
	}
	// Not our environment: it may have secrets, and a VMM needs none.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C"}
	proc.Detach(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	if s.cfg.VMM, err = proc.Read(cmd.Process.Pid); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	go s.watchVMM()
	if err := joined(); err != nil {
		return errors.Join(err, s.takeBack(false))
	}
	return nil
}

// watchVMM waits for the VMM's end, as its parent or else by pidfd.
func (s *shim) watchVMM() {
	defer close(s.ended)
	if s.cmd != nil {
		_ = s.cmd.Wait() // the state says all there is
		s.fate.status, s.fate.waited = s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	} else {
		for proc.Wait(context.Background(), s.cfg.VMM) != nil {
			time.Sleep(time.Second) // out of descriptors: try again
		}
	}
	if len(s.cfg.Jail) > 0 {
		if status, seen := s.net.jailer.Ended(s.cfg.Dir); seen {
			s.fate = fate{waited: true, status: status}
		}
	}
}

// settle writes exit.json, tells those who wait, and removes the socket. Later callers read
// the file.
func (s *shim) settle(l *net.UnixListener) error {
	s.net.ports.Close() // its ports are free before anybody hears of the end
	s.drained.Wait()    // each takes a bounded time
	s.exit = s.exitNow()
	err := writeJSON(ExitFile, s.exit)
	close(s.settled)
	err = errors.Join(err, l.Close()) // unlinks the socket
	s.serving.Wait()
	return err
}

func (s *shim) state() Status {
	return Status{VMM: s.cfg.VMM, Shim: s.self, Established: s.channel.established(), Started: s.started}
}

// exitNow says how a VMM that has ended did so.
func (s *shim) exitNow() banger.Exit {
	e := evidence{fate: s.fate, full: s.memory.full(s.cfg.Memory), words: words(VMMLog)}
	s.trace.mu.Lock()
	e.seen, e.ended = s.trace.seen, s.trace.ended
	s.trace.mu.Unlock()
	exit := e.judge()
	exit.Time = time.Now()
	return exit
}

// endVMM ends a VMM whose guest has ended: by SIGTERM, so that it closes its disks, then by
// SIGKILL.
func (s *shim) endVMM() {
	s.trace.mu.Lock()
	s.trace.ended = true
	s.trace.mu.Unlock()
	if err := proc.Kill(s.cfg.VMM, unix.SIGTERM); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	select {
	case <-s.ended:
	case <-time.After(termGrace):
		if err := proc.Kill(s.cfg.VMM, unix.SIGKILL); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// words returns the end of a log, for messages; "" when there is none.
func words(path string) string { return printable(string(tail(path, lastWords))) }

// tail returns the last n bytes of a file, nothing when it can't be read.
func tail(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd) // a regular file always can
	}
	b, _ := io.ReadAll(io.LimitReader(f, n))
	return b
}
