package tests_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banger/agent"
	"banger/agent/session"
	"banger/api"
	"banger/bootstrap"
	"banger/catalog"
	"banger/config"
	"banger/engine"
	"banger/fake"
	"banger/gc"
	"banger/guest"
	"banger/journal"
	"banger/operation"
	"banger/proc"
	"banger/sqlite"
	"banger/xdg"

	"github.com/ProtonMail/go-crypto/openpgp"

	root "banger"
)

// fakeDaemon is bangerd with the host in memory: the same engine, database and
// API, and guests that are this process's own agent.
func fakeDaemon() error {
	ready := flag.Int("ready-fd", -1, "")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conf, dirs, err := config.Load(os.Getenv)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dirs.State, 0o700); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(dirs.State, "banger.db"), sqlite.Unsafe)
	if root.CodeOf(err) == root.CodeConflict {
		return tell(*ready) // another daemon has it: that one will answer
	}
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	l, err := api.Listen(dirs.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := tell(*ready); err != nil {
		return err
	}
	host := fake.NewHost()
	guests := &guests{servers: map[root.Process]*agent.Server{}}
	host.Agent = guests.serve
	life := host.Live(nil)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c := &catalog.Catalog{Store: store, ImageFiles: life.Images(), KernelFiles: life.Kernels(), Kernel: "debian-12-cloud", Now: time.Now}
	e := &engine.Engine{
		Store: store, Catalog: c,
		Hypervisors: map[string]root.Hypervisor{"fake": life.Hypervisor()},
		Host: engine.Drivers{
			Disks:    map[string]root.Disks{"file": life.Disks()},
			Networks: map[root.NetMode]root.Networks{root.NetBridge: life.Networks()},
		}, Processes: life.Processes(),
		Dir: dirs.State, RAMDir: "/ram", BootID: host.BootID(),
		Defaults: engine.Defaults{Hypervisor: "fake", Image: "debian-12", Kernel: "debian-12-cloud", VCPU: 1, MemoryMiB: 256, DiskMiB: 1024},
		Now:      time.Now, NewID: newID, Log: log,
	}
	if text, err := os.ReadFile(filepath.Join(dirs.Config, "boot-deadline")); err == nil { // a script's, whose guest is mute
		if e.Defaults.Boot, err = time.ParseDuration(strings.TrimSpace(string(text))); err != nil {
			return err
		}
	}
	events := &journal.Journal{}
	e.Journal = events.Add
	plans, err := store.Ops(ctx)
	if err != nil {
		return err
	}
	making := &operation.Table{Creator: engine.Control{Engine: e}, NewID: newID, Now: time.Now}
	making.Recall(plans)
	if err := e.Open(ctx); err != nil {
		return err
	}
	defer e.Close()
	defer making.Close()
	builder, err := builder(conf, dirs, c)
	if err != nil {
		return err
	}
	return (&api.Server{
		VMs: e, Control: engine.Control{Engine: e}, Catalog: c, Builder: builder, Leases: e, Making: making, Stop: stop, Log: log,
		System: struct {
			*journal.Journal
			*gc.Collector
		}{events, &gc.Collector{
			Dir: dirs.State, Cache: dirs.Cache, RAMDir: filepath.Join(dirs.State, "ram"), VMs: e.VMs,
			Spare: gc.Spare{
				Catalog: c, Downloads: []string{filepath.Join(dirs.Cache, "packages")}, Image: conf.DefaultImage, Kernel: conf.DefaultKernel,
			},
			Identify: proc.Read, End: proc.Host{}.Signal, Now: time.Now,
		}},
	}).Serve(ctx, l)
}

// builder builds as far as the VM: guests here are processes of this host, where
// nothing of a package may run. It trusts the keys of the script's archive.
func builder(conf config.Config, dirs xdg.Dirs, images bootstrap.Images) (*bootstrap.Builder, error) {
	b := &bootstrap.Builder{
		Archives: bootstrap.Archives{CacheDir: filepath.Join(dirs.Cache, "packages"), Mirror: conf.Mirror, Security: conf.Security, Stall: time.Second},
		Images:   images, Machines: noMachines{}, NewID: newID, Log: slog.New(slog.DiscardHandler),
	}
	keys, err := os.Open(filepath.Join(dirs.Config, "keys.gpg"))
	if err != nil {
		return b, nil // no script's archive: Debian's keys
	}
	defer func() { _ = keys.Close() }()
	b.Keys, err = openpgp.ReadKeyRing(keys)
	return b, err
}

type noMachines struct{ bootstrap.Machines }

func (noMachines) CreateVM(context.Context, root.Spec, bool, root.Progress) (root.VM, error) {
	return root.VM{}, root.Errorf(root.CodeUnavailable, "the host in memory starts no VM for packages")
}

func tell(fd int) error {
	f := os.NewFile(uintptr(fd), "ready")
	if f == nil {
		return nil
	}
	_, err := f.WriteString("ready\n")
	return firstOf(err, f.Close())
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// guests are the agents of the fake host's VMs, one for each run.
type guests struct {
	mu      sync.Mutex
	servers map[root.Process]*agent.Server // by the VMM of the run
	asked   atomic.Int32
}

func (g *guests) serve(stream *fake.Guest) {
	g.mu.Lock()
	s := g.servers[stream.VMM()]
	if s == nil {
		s = &agent.Server{
			Version:  "fake",
			Sessions: &session.Table{},
			Configure: func(ctx context.Context, id guest.Identity) (guest.Ready, error) {
				if id.Hostname == "mute" {
					<-ctx.Done()
				}
				return guest.Ready{Agent: "fake"}, ctx.Err()
			},
			InitState: g.state,
			SetClock:  func(time.Time) error { return nil },
		}
		g.servers[stream.VMM()] = s
		go endWith(stream, s.Sessions)
	}
	g.mu.Unlock()
	s.Shutdown = func(context.Context, string) error { stream.Poweroff(); return nil }
	_ = s.Serve(&once{conn: stream})
}

// state is that of an init that is up when it was asked for the third time.
func (g *guests) state() string {
	if g.asked.Add(1) < 3 {
		return "starting"
	}
	return "running"
}

// endWith ends a guest's commands with its machine: they are processes of this host.
func endWith(stream *fake.Guest, sessions *session.Table) {
	<-stream.Ended()
	for _, s := range sessions.List() {
		_ = sessions.Signal(s.Spec.ID, "KILL") // one that has ended by itself is as good
	}
}

// once is a listener with one connection to give.
type once struct{ conn net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, io.EOF
	}
	c := o.conn
	o.conn = nil
	return c, nil
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.UnixAddr{} }
