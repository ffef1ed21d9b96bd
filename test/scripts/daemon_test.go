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

	"banger/api"
	"banger/config"
	"banger/daemon/catalog"
	"banger/daemon/engine"
	"banger/daemon/gc"
	"banger/daemon/journal"
	"banger/daemon/operation"
	"banger/daemon/proxy"
	"banger/daemon/sqlite"
	"banger/daemon/template"
	"banger/fetch/debian"
	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/host/xdg"
	"banger/image/bootstrap"
	"banger/test/fake"

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
	if _, err := os.Stat(filepath.Join(dirs.Config, "no-commands")); err == nil { // what comes at random is run nowhere
		host.Agent = nil
	}
	life := host.Live(nil)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c := &catalog.Catalog{Store: store, ImageFiles: life.Images(), KernelFiles: life.Kernels(), Default: "debian-12-cloud", DefaultImage: "debian-12", Now: time.Now}
	e := &engine.Engine{
		Host: engine.Host{
			Ports:       life.Ports(),
			Catalog:     c,
			Hypervisors: map[string]root.Hypervisor{"fake": life.Hypervisor()},
			Disks:       map[string]root.Disks{"file": life.Disks()},
			Networks:    map[root.NetMode]root.Networks{root.NetBridge: life.Networks()},
			Dir:         dirs.State, RAMDir: "/ram",
		},
		Store: store, Processes: life.Processes(), BootID: host.BootID(),
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
	plans, err := store.Plans(ctx)
	if err != nil {
		return err
	}
	making := &operation.Table{Creator: e, NewID: newID, Now: time.Now}
	making.Recall(plans)
	if err := e.Open(ctx); err != nil {
		return err
	}
	defer e.Close()
	defer making.Close()
	frozen := templates{&template.Store{Dir: filepath.Join(dirs.Cache, "templates"), Hypervisors: e.Hypervisors, NewID: newID, Now: time.Now, Log: log}, e}
	if err := frozen.Open(ctx); err != nil {
		return err
	}
	builder, err := builder(conf, dirs, c)
	if err != nil {
		return err
	}
	c.ImageCost, c.KernelCost = builder.Cost, func(name string) (root.Missing, bool) {
		return root.Missing{Kind: "kernel", Name: name, Source: "this test", Download: 1 << 20, Disk: 1 << 20, Seconds: 1}, strings.HasPrefix(name, "debian-")
	}
	return (&api.Server{
		Stop: stop, Ending: func() { making.Close(); e.Close() }, Log: log,
		Services: root.Parts{VM: e, Image: struct {
			*catalog.Catalog
			root.ImageBuilder
			catalog.Sharing
		}{c, builder, catalog.Sharing{Of: c, VMs: engine.Reader{Engine: e}}}, Kernel: c, Template: frozen, Operation: making, Whole: system{events, c, &proxy.Server{}, &gc.Collector{
			Dir: dirs.State, Cache: dirs.Cache, RAMDirs: []string{filepath.Join(dirs.State, "ram")}, VMs: e.VMs,
			Spare: gc.Spare{
				Catalog: c, Downloads: []string{filepath.Join(dirs.Cache, "packages")}, Image: conf.DefaultImage, Kernel: conf.DefaultKernel,
			},
			Now: time.Now,
		}}},
	}).Serve(ctx, l)
}

// system is all that isn't about one VM, image or kernel.
type system struct {
	*journal.Journal
	catalog *catalog.Catalog
	*proxy.Server
	*gc.Collector
}

func (s system) Missing(ctx context.Context, spec root.Spec) ([]root.Missing, error) {
	return s.catalog.Missing(ctx, spec.Image, spec.Kernel)
}

// templates are made when they are asked for, and nothing is restored from them.
type templates struct {
	*template.Store
	engine *engine.Engine
}

func (t templates) CreateTemplate(ctx context.Context, spec root.TemplateSpec, p root.Progress) (root.Template, error) {
	o, err := t.engine.Original(ctx, spec, p)
	if err != nil {
		return root.Template{}, err
	}
	return t.Make(ctx, template.Original{Hypervisor: o.Spec.Hypervisor, Kernel: o.KernelID, Machine: o.Machine}, p)
}

// builder builds as far as the VM: guests here are processes of this host, where
// nothing of a package may run. It trusts the keys of the script's archive.
func builder(conf config.Config, dirs xdg.Dirs, images bootstrap.Images) (*bootstrap.Builder, error) {
	b := &bootstrap.Builder{
		Archives: bootstrap.Archives{From: debian.Source{CacheDir: filepath.Join(dirs.Cache, "packages"), Mirror: conf.Mirror, Security: conf.Security, Stall: time.Second}},
		Images:   images, Machines: noMachines{}, NewID: newID, Log: slog.New(slog.DiscardHandler),
	}
	keys, err := os.Open(filepath.Join(dirs.Config, "keys.gpg"))
	if err != nil {
		return b, nil // no script's archive: Debian's keys
	}
	defer func() { _ = keys.Close() }()
	b.From.Keys, err = openpgp.ReadKeyRing(keys)
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
	s.Freeze = func() error { stream.Freeze(); return nil }
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
