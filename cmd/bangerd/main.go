// Command bangerd is the daemon of one user. This package is wiring: it reads
// environment and configuration, makes sure that it is alone, gives the engine
// its drivers and the API its socket. It refuses to hold any state of its own:
// it may be killed at any instant, and the next one goes on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"banger"
	"banger/api"
	"banger/config"
	"banger/engine"
	"banger/sqlite"
	"banger/unixsock"
	"banger/version"
	"banger/xdg"
)

func main() {
	ready := flag.Int("ready-fd", -1, "write a line to this file descriptor when the socket listens")
	check := flag.Bool("check-migrations", false, "compare the database's schema with this program's and end: status 0 the same, 1 it will be migrated, 2 it is newer or can't be read")
	examine := flag.Bool("doctor", false, "look at this host, print what was found as JSON and end")
	show := flag.Bool("version", false, "print the version and end")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "bangerd is banger's daemon. The banger command starts it; SIGTERM ends it, and VMs run on.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *show {
		fmt.Println(version.String())
		return
	}
	if *examine {
		if err := printDoctor(context.Background(), os.Stdout); err != nil {
			printError(err)
			os.Exit(1)
		}
		return
	}
	if *check {
		os.Exit(checkMigrations())
	}
	if err := run(*ready); err != nil {
		printError(err)
		os.Exit(1)
	}
}

// printError says what happened and what to do about it.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "bangerd:", err)
	if e, ok := errors.AsType[*banger.Error](err); ok && e.Hint != "" {
		fmt.Fprintln(os.Stderr, "  "+e.Hint)
	}
}

// checkMigrations answers what an upgrade asks before it replaces a daemon.
func checkMigrations() int {
	_, dirs, err := config.Load(os.Getenv)
	if err != nil {
		printError(err)
		return int(sqlite.Newer)
	}
	path := databasePath(dirs)
	is, err := sqlite.Check(context.Background(), path)
	if err != nil {
		printError(err)
		return int(sqlite.Newer)
	}
	fmt.Printf("%s: %s\n", path, map[sqlite.Schema]string{
		sqlite.Current: "up to date",
		sqlite.Older:   "will be migrated when the daemon starts",
		sqlite.Newer:   "written by a newer banger; this one refuses it",
	}[is])
	return int(is)
}

// errTaken means that another daemon serves this user: nothing to do.
var errTaken = errors.New("another daemon is running")

func run(readyFD int) (err error) {
	syscall.Umask(0o077)
	// The daemon is idle nearly always: a smaller heap is worth more collections.
	debug.SetGCPercent(40)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	conf, dirs, err := config.Load(os.Getenv)
	if err != nil {
		return err
	}
	if err := dirs.Make(); err != nil {
		return err
	}
	lock, err := alone(ctx, dirs)
	if errors.Is(err, errTaken) {
		return tell(readyFD)
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: conf.Level()}))
	h, err := open(ctx, dirs, conf, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	l, err := api.Listen(dirs.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := tell(readyFD); err != nil {
		return err
	}
	// From here on commands connect and wait; what a predecessor left comes first.
	if err := h.start(ctx); err != nil {
		return err
	}
	log.Info("serving", "version", version.String(), "socket", dirs.Socket, "pid", os.Getpid())
	debug.FreeOSMemory() // what opening needed, serving doesn't
	ctx, lost := context.WithCancel(ctx)
	defer lost()
	go watchSocket(ctx, dirs.Socket, lost)
	go h.idle.Run(ctx)
	making := make(chan struct{})
	go func() {
		defer close(making)
		h.templates.Run(ctx, h.engine.Idle)
	}()
	defer func() { <-making }() // what is half made goes before us
	server := &api.Server{
		VMs: h.idle, Control: engine.Control{Engine: h.engine}, System: h.system,
		Catalog: h.catalog, Builder: h.builder, Leases: h.idle, Making: h.making, Frozen: h.templates, Stop: stop, Log: log,
	}
	err = server.Serve(ctx, l)
	log.Info("ending; VMs run on", "err", err)
	return err
}

// tell says that the socket listens.
func tell(fd int) error {
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "ready")
	if f == nil {
		return fmt.Errorf("--ready-fd %d is no file descriptor", fd)
	}
	_, err := f.WriteString("ready\n")
	_ = f.Close()
	if errors.Is(err, syscall.EPIPE) {
		return nil // who asked has left; the next command will find us
	}
	return err
}

// alone takes the user's daemon lock. When another daemon has it and answers,
// that is errTaken; one that is about to end is waited for.
func alone(ctx context.Context, dirs xdg.Dirs) (*os.File, error) {
	path := dirs.State + "/daemon.lock"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(12 * time.Second); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			_ = f.Close()
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if conn, err := unixsock.Dial(ctx, dirs.Socket); err == nil {
			_ = conn.Close()
			_ = f.Close()
			return nil, errTaken
		}
		if ctx.Err() != nil || time.Now().After(end) {
			_ = f.Close()
			return nil, fmt.Errorf("another daemon holds %s but doesn't listen on %s", path, dirs.Socket)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// watchSocket ends the daemon when its socket is taken away: nobody could reach this
// daemon any more, and it would keep the next one from starting.
func watchSocket(ctx context.Context, path string, lost func()) {
	first, err := os.Stat(path)
	if err != nil {
		lost()
		return
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(first, now) {
			lost()
			return
		}
	}
}
