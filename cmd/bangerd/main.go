// Command bangerd is the daemon of one user. This package is wiring: it reads
// environment and configuration, makes sure that it is alone, gives the engine its
// drivers and the API its socket. It has no state of its own: it may be killed at any
// instant, and the next one goes on.
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
	"banger/daemon/sqlite"
	"banger/host/hostfs"
	"banger/host/unixsock"
	"banger/host/xdg"
	"banger/version"
)

func main() {
	ready := flag.Int("ready-fd", -1, "write a line to this file descriptor when the socket listens")
	check := flag.Bool("check-migrations", false, "compare the database's schema with this program's and end: status 0 the same, 1 it will be migrated, 2 it is newer or can't be read")
	examine := flag.Bool("doctor", false, "look at this host, print what was found as JSON and end")
	show := flag.Bool("version", false, "print the version and end")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "bangerd is banger's daemon. `banger` starts it; SIGTERM ends it, and VMs run on.")
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

// printError prints an error and its hint.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "bangerd:", err)
	if e, ok := errors.AsType[*banger.Error](err); ok && e.Hint != "" {
		fmt.Fprintln(os.Stderr, "  "+e.Hint)
	}
}

// checkMigrations says whether this program can use the database. An upgrade asks this
// before it replaces a daemon.
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

// errTaken means that another daemon serves this user, so this one ends.
var errTaken = errors.New("another daemon is running")

func run(readyFD int) (err error) {
	syscall.Umask(0o077)
	// The daemon is idle nearly always, so rather collect more often and use less memory.
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
	// Commands can connect from here on, but wait until recovery is done.
	if err := h.start(ctx); err != nil {
		return err
	}
	log.Info("serving", "version", version.String(), "socket", dirs.Socket, "pid", os.Getpid())
	debug.FreeOSMemory() // recovery needs more memory than serving
	ctx, lost := context.WithCancel(ctx)
	defer lost()
	go watchSocket(ctx, dirs.Socket, lost)
	go h.idle.Run(ctx)
	go h.system.Server.Run(ctx)
	if h.bridge != nil {
		go h.bridge.Watch(ctx, func(err error) { firewall(log, err) })
	}
	making := make(chan struct{})
	go func() {
		defer close(making)
		h.templates.Run(ctx, h.engine.Idle)
	}()
	defer func() { <-making }() // it removes what is half made
	server := &api.Server{
		Services: h.services(), Stop: stop, Ending: h.end, Log: log,
	}
	err = server.Serve(ctx, l)
	log.Info("ending; VMs run on", "err", err)
	return err
}

// firewall logs that the firewall's rules can't be put back, and later that they could.
func firewall(log *slog.Logger, err error) {
	if err != nil {
		log.Error("VMs on the bridge are cut off: their firewall rules can't be made", "err", err)
		return
	}
	log.Info("VMs on the bridge have their network again")
}

// tell tells whoever started us that the socket listens.
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
		return nil // the command that started us has ended; the next one will find us
	}
	return err
}

// alone takes the user's daemon lock. errTaken: another daemon has it and answers. It
// waits for a daemon that is about to end.
func alone(ctx context.Context, dirs xdg.Dirs) (*os.File, error) {
	path := dirs.State + "/daemon.lock"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(12 * time.Second); ; {
		err := hostfs.TryLock(f)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, hostfs.ErrLocked) {
			_ = f.Close()
			return nil, err
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

// watchSocket calls lost when the daemon's socket is removed: nobody could reach this
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
