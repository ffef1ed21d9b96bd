package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger"
	"banger/config"
	"banger/daemon/catalog"
	"banger/daemon/engine"
	"banger/daemon/gc"
	"banger/daemon/idle"
	"banger/daemon/isolation"
	"banger/daemon/journal"
	"banger/daemon/operation"
	"banger/daemon/proxy"
	"banger/daemon/sqlite"
	"banger/daemon/template"
	"banger/fetch/debian"
	"banger/host/cgroup"
	"banger/host/proc"
	"banger/host/published"
	"banger/host/xdg"
	"banger/image/bootstrap"
	"banger/image/oci"
	"banger/image/rootfs"
	"banger/kernel"
	"banger/network/bridge"
	"banger/vmm/jail"
	"banger/vmm/kvm"
)

// host is the engine with its drivers and stores.
type host struct {
	engine  *engine.Engine
	catalog *catalog.Catalog
	builder *bootstrap.Builder
	sharing catalog.Sharing
	system  system
	making  *operation.Table
	idle    *idle.Watcher

	templates templates
	store     *sqlite.Store
	bridge    *bridge.Driver // nil unless this is root
	images    string         // directory
	opened    bool
}

// system is banger.SystemService, put together of its parts.
type system struct {
	*journal.Journal
	*gc.Collector
	*proxy.Server
	catalog *catalog.Catalog
	choices *isolation.Host
	qemu    func(context.Context) (banger.Missing, bool) // false: there is one
}

// Missing implements banger.SystemService.
func (s system) Missing(ctx context.Context, spec banger.Spec) ([]banger.Missing, error) {
	chosen, why, err := s.choices.Settle(ctx, spec)
	if err != nil {
		return nil, err
	}
	list, err := s.catalog.Missing(ctx, chosen.Image, chosen.Kernel)
	for i := range list {
		if list[i].Kind == "kernel" {
			list[i].Why = why
		}
	}
	if chosen.Hypervisor == "qemu" && err == nil {
		if lacks, is := s.qemu(ctx); is { // first, as an image is made in a VM
			list = slices.Insert(list, 0, lacks)
		}
	}
	return list, err
}

func templateDir(dirs xdg.Dirs) string { return filepath.Join(dirs.Cache, "templates") }

func databasePath(dirs xdg.Dirs) string { return filepath.Join(dirs.State, "banger.db") }

// open gives the engine its drivers. Nothing runs yet: Open does that.
func open(ctx context.Context, dirs xdg.Dirs, conf config.Config, log *slog.Logger) (*host, error) {
	shim, err := sibling("banger-shim")
	if err != nil {
		return nil, err
	}
	agent, err := sibling("banger-agent")
	if err != nil {
		return nil, err
	}
	boot, err := proc.BootID()
	if err != nil {
		return nil, err
	}
	ram, err := ramDir(dirs.State)
	if err != nil {
		return nil, err
	}
	probed, err := kvm.Cached(ctx, filepath.Join(dirs.Cache, "kvm.json"))
	if err != nil { // go on: QEMU can emulate
		log.Warn("kvm could not be judged", "err", err)
	}
	hv := openHypervisors(ctx, conf, dirs, shim, probed)
	hv.tell(log, conf, probed)
	vcpu, memory := hv.sizes(ctx, conf, hv.by, hv.chosen)
	images, kernels := imagesIn(conf, dirs), kernelsIn(conf, dirs)
	kernels.Agent, kernels.Flatten = agent, flatten
	if err := errors.Join(images.Clean(), kernels.Clean()); err != nil {
		log.Warn("half-made images and kernels of an earlier daemon could not be removed", "err", err)
	}
	store, err := sqlite.Open(ctx, databasePath(dirs))
	if err != nil {
		return nil, err
	}
	registries := &oci.Registries{Store: images, Dir: filepath.Join(dirs.Cache, "layers"), Mirrors: conf.Mirrors}
	cat := &catalog.Catalog{Store: store, Registries: registries, ImageFiles: images, Default: hv.kernel(conf), DefaultImage: conf.DefaultImage, Now: time.Now, KernelFiles: kernels, KernelCost: kernels.Cost}
	disks, devices := hostDisks(dirs)
	br, networks, links, err := hostNetworks(conf, dirs)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	h := &host{store: store, images: images.Dir, catalog: cat, bridge: br}
	h.system.Journal, h.system.catalog = &journal.Journal{}, cat
	h.system.choices, h.system.qemu = hv.choices, lackingQEMU(hv.qemu, packagedQEMU(conf, dirs))
	h.engine = &engine.Engine{
		Host: engine.Host{
			Catalog: cat, Hypervisors: hv.drivers(), Disks: disks, Networks: networks,
			Dir: dirs.State, RAMDir: ram, MemoryMiB: freeMemory(ram), Home: ofUser(conf).Home, Isolations: hv.choices, Ports: published.Host{},
		},
		Store: store, Processes: proc.Host{}, BootID: boot,
		Defaults: engine.Defaults{
			Hypervisor: hv.chosen, Disk: conf.DiskDriver, Net: banger.NetMode(conf.Net), Image: conf.DefaultImage, Kernel: hv.kernel(conf),
			VCPU: vcpu, MemoryMiB: memory, DiskMiB: conf.DiskMiB,
			Boot: conf.Boot(),
		},
		Now: time.Now, NewID: newID, Log: log,
		Journal: func(e banger.Event) { h.system.Add(e); h.idle.Kick() },
	}
	h.templates = templates{&template.Store{
		Dir: templateDir(dirs), Hypervisors: h.engine.Hypervisors,
		NewID: newID, Now: time.Now, Log: log, Off: !conf.WarmStart,
	}, h.engine}
	h.engine.Templates = h.templates
	h.making = &operation.Table{Creator: h.engine, NewID: newID, Now: time.Now}
	h.idle = idle.New(h.engine, h.engine)
	h.idle.Usage, h.idle.After, h.idle.Now, h.idle.Log = proc.Host{}.Usage, conf.AutoStopStaleAfter(), time.Now, log
	h.system.Server = &proxy.Server{VMs: h.idle, Look: h.engine.Dial, Port: conf.ProxyPort, Log: log}
	h.builder = &bootstrap.Builder{
		Archives: bootstrap.Archives{From: archive(conf, dirs, "packages"), Noticed: kernels.Notice},
		Images:   cat, Machines: h.idle, Emulated: probed.Verdict != kvm.Works, NewID: newID, Log: log,
	}
	cat.ImageCost = h.builder.Cost
	h.sharing = catalog.Sharing{Of: cat, Formats: registries, VMs: engine.Reader{Engine: h.engine}}
	h.system.Collector = &gc.Collector{
		Spare: h.spare(dirs, conf),
		Dir:   dirs.State, Data: dirs.Data, Cache: dirs.Cache, RAMDirs: ramDirs(dirs.State, ram), VMs: h.engine.VMs,
		Now: time.Now, Programs: hv.programs(shim), Kernel: slices.Concat(devices, links, []banger.KernelObjects{cgroup.Leftovers{}, jail.Trials{}}),
	}
	return h, nil
}

// services is what the daemon offers. Requests pass through idle, which watches for
// idle VMs, to the engine.
func (h *host) services() banger.Services {
	return banger.Parts{
		VM: struct {
			*idle.Watcher
			banger.VMControl
		}{h.idle, h.engine},
		Image: struct {
			*catalog.Catalog
			banger.ImageBuilder
			catalog.Sharing
		}{h.catalog, h.builder, h.sharing},
		Kernel: h.catalog, Template: h.templates, Operation: h.making, Whole: h.system,
	}
}

func (h *host) start(ctx context.Context) error {
	if err := h.sweep(ctx); err != nil {
		h.engine.Log.Warn("images without a name were not removed", "err", err)
	}
	plans, err := h.store.Plans(ctx)
	if err != nil {
		return err
	}
	h.making.Recall(plans)
	if err := h.templates.Open(ctx); err != nil {
		h.engine.Log.Warn("half-made templates of an earlier daemon could not be removed", "err", err)
	}
	err = h.engine.Open(ctx)
	h.opened = err == nil
	return err
}

// spare is what may be pruned.
func (h *host) spare(dirs xdg.Dirs, conf config.Config) gc.Spare {
	return gc.Spare{
		Catalog: h.catalog, Templates: h.templates, Image: conf.DefaultImage, Kernel: conf.DefaultKernel,
		Downloads: []string{filepath.Join(dirs.Cache, "downloads"), filepath.Join(dirs.Cache, "packages"), filepath.Join(dirs.Cache, "layers"), filepath.Join(dirs.Cache, "qemu")},
	}
}

// sweep removes images without a name. It doesn't when another daemon keeps images in
// the same directory: that one may have names for them in its own records.
func (h *host) sweep(ctx context.Context) error {
	mine, err := claim(filepath.Join(h.images, ".records"), h.engine.Dir)
	if err != nil || !mine {
		return err
	}
	h.system.Spare.Alone = true
	return h.catalog.Sweep(ctx)
}

// end ends the engine's work: it undoes what it can undo quickly, and leaves the rest
// to the next daemon.
func (h *host) end() {
	var ended sync.WaitGroup
	ended.Go(h.making.Close)
	ended.Go(h.engine.Close)
	ended.Wait()
}

func (h *host) close() error {
	if h.opened {
		h.end()
	}
	return h.store.Close()
}

// templates joins the templates' store with the engine, which knows what VMs are made of.
type templates struct {
	*template.Store
	engine *engine.Engine
}

// CreateTemplate implements banger.TemplateService.
func (t templates) CreateTemplate(ctx context.Context, spec banger.TemplateSpec, p banger.Progress) (banger.Template, error) {
	o, err := t.engine.Original(ctx, spec, p)
	if err != nil {
		return banger.Template{}, err
	}
	orig := template.Original{Hypervisor: o.Spec.Hypervisor, Kernel: o.KernelID, Machine: o.Machine}
	if spec.Image != "" {
		orig.Image = &template.Image{
			Name: o.Spec.Image, ID: o.ImageID, DiskMiB: o.Spec.DiskMiB, Disks: o.Disks, Identity: o.Identity, After: spec.After,
		}
	}
	return t.Make(ctx, orig, p)
}

// archive is the Debian archive, whose downloads go to a directory in the cache.
func archive(conf config.Config, dirs xdg.Dirs, downloads string) debian.Source {
	return debian.Source{Mirror: conf.Mirror, Security: conf.Security, CacheDir: filepath.Join(dirs.Cache, downloads), SeenDir: filepath.Join(dirs.Data, "seen")}
}

func imagesIn(conf config.Config, dirs xdg.Dirs) *oci.Store {
	return &oci.Store{Store: &rootfs.Store{Dir: filepath.Join(dirs.Data, "images"), Limits: rootfs.Limits{
		Bytes: int64(conf.ImageGiB) << 30, Entries: conf.ImageEntries, FreeMiB: conf.ImageFreeMiB,
	}}}
}

func kernelsIn(conf config.Config, dirs xdg.Dirs) *kernel.Kernels {
	return &kernel.Kernels{Dir: filepath.Join(dirs.Data, "kernels"), From: archive(conf, dirs, "downloads")}
}

// flatten makes an EROFS image of a tar: package rootfs reads it, package erofs writes.
func flatten(ctx context.Context, tar io.Reader, out *os.File) error {
	_, err := rootfs.Write(ctx, tar, out, nil)
	return err
}
