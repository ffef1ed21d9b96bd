package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger"
	"banger/bootstrap"
	"banger/catalog"
	"banger/config"
	"banger/debian"
	"banger/engine"
	"banger/gc"
	"banger/idle"
	"banger/initramfs"
	"banger/journal"
	"banger/kvm"
	"banger/operation"
	"banger/proc"
	"banger/rootfs"
	"banger/sqlite"
	"banger/template"
	"banger/xdg"
)

// host is the engine with all it stands on.
type host struct {
	engine  *engine.Engine
	catalog *catalog.Catalog
	builder *bootstrap.Builder
	system  system
	making  *operation.Table
	idle    *idle.Watcher

	templates templates
	store     *sqlite.Store
	images    string // directory
	opened    bool
}

// system is banger.System in its parts.
type system struct {
	*journal.Journal
	*gc.Collector
}

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
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	ram, err := ramDir(dirs.State)
	if err != nil {
		return nil, err
	}
	probed, err := kvm.Cached(ctx, filepath.Join(dirs.Cache, "kvm.json"))
	if err != nil { // then emulation, which works everywhere
		log.Warn("kvm could not be judged", "err", err)
	}
	hv := openHypervisors(ctx, conf, dirs, shim, probed)
	log.Info("hypervisor", "default", hv.chosen, "why", hv.why, "kvm", probed.Verdict, "detail", probed.Detail, "tsc_khz", probed.TSCKHz)
	images := &rootfs.Store{Dir: filepath.Join(dirs.Data, "images")}
	if err := images.Clean(); err != nil {
		log.Warn("what dead imports left could not be removed", "err", err)
	}
	store, err := sqlite.Open(ctx, databasePath(dirs))
	if err != nil {
		return nil, err
	}
	cat := &catalog.Catalog{
		Store: store, ImageFiles: images, Kernel: conf.DefaultKernel, Now: time.Now,
		KernelFiles: &debian.Kernels{
			Dir: filepath.Join(dirs.Data, "kernels"), CacheDir: filepath.Join(dirs.Cache, "downloads"),
			Mirror: conf.Mirror, Agent: agent, Flatten: flatten, Initramfs: writeInitramfs,
		},
	}
	disks, devices := hostDisks(dirs)
	networks, links, err := hostNetworks(conf, dirs)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	h := &host{store: store, images: images.Dir, catalog: cat}
	h.system.Journal = &journal.Journal{}
	h.engine = &engine.Engine{
		Store: store, Catalog: cat,
		Hypervisors: hv.drivers(),
		Host:        engine.Drivers{Disks: disks, Networks: networks}, Processes: proc.Host{},
		Dir: dirs.State, RAMDir: ram, BootID: boot,
		Defaults: engine.Defaults{
			Hypervisor: hv.chosen, Disk: conf.DiskDriver, Net: banger.NetMode(conf.Net), Image: conf.DefaultImage, Kernel: conf.DefaultKernel,
			VCPU: hv.vcpu(ctx, conf.VCPU), MemoryMiB: conf.MemoryMiB, DiskMiB: conf.DiskMiB,
			Boot: conf.Boot(),
		},
		Now: time.Now, NewID: newID, HostMemoryMiB: freeMemory(ram), Log: log,
		Journal: h.system.Add,
	}
	h.templates = templates{&template.Store{
		Dir: filepath.Join(dirs.Cache, "templates"), Hypervisors: h.engine.Hypervisors,
		NewID: newID, Now: time.Now, Log: log, Off: !conf.WarmStart,
	}, engine.Control{Engine: h.engine}}
	h.engine.Warm = h.templates
	h.making = &operation.Table{Creator: engine.Control{Engine: h.engine}, NewID: newID, Now: time.Now}
	h.idle = &idle.Watcher{
		VMService: h.engine, Leases: h.engine, Usage: proc.Host{}.Usage,
		After: conf.AutoStopStaleAfter(), Now: time.Now, Log: log,
	}
	h.builder = &bootstrap.Builder{
		Archives: bootstrap.Archives{CacheDir: filepath.Join(dirs.Cache, "packages"), Mirror: conf.Mirror, Security: conf.Security, Client: debian.NewClient()},
		Images:   cat, Machines: h.idle, NewID: newID, Log: log,
	}
	h.system.Collector = &gc.Collector{
		Spare: h.spare(dirs, conf),
		Dir:   dirs.State, Data: dirs.Data, Cache: dirs.Cache, RAMDir: ram, VMs: h.engine.VMs,
		Identify: proc.Read, End: proc.Host{}.Signal, Now: time.Now, Kernel: slices.Concat(devices, links),
	}
	return h, nil
}

func (h *host) start(ctx context.Context) error {
	if err := h.sweep(ctx); err != nil {
		h.engine.Log.Warn("images without a name were not removed", "err", err)
	}
	plans, err := h.store.Ops(ctx)
	if err != nil {
		return err
	}
	h.making.Recall(plans)
	if err := h.templates.Open(ctx); err != nil {
		h.engine.Log.Warn("what dead makers of templates left could not be removed", "err", err)
	}
	err = h.engine.Open(ctx)
	h.opened = err == nil
	return err
}

// spare is what there is to prune.
func (h *host) spare(dirs xdg.Dirs, conf config.Config) gc.Spare {
	return gc.Spare{
		Catalog: h.catalog, Templates: h.templates, Image: conf.DefaultImage, Kernel: conf.DefaultKernel,
		Downloads: []string{filepath.Join(dirs.Cache, "downloads"), filepath.Join(dirs.Cache, "packages")},
	}
}

// sweep removes images without a name, unless another daemon, with records of
// its own, keeps images in the same directory: it would have names for them.
func (h *host) sweep(ctx context.Context) error {
	mine, err := claim(filepath.Join(h.images, ".records"), h.engine.Dir)
	if err != nil || !mine {
		return err
	}
	h.system.Spare.Alone = true
	return h.catalog.Sweep(ctx)
}

func (h *host) close() error {
	if h.opened {
		h.making.Close()
		h.engine.Close()
	}
	return h.store.Close()
}

// templates joins their store with the engine, which knows what VMs are made of.
type templates struct {
	*template.Store
	engine engine.Control
}

// CreateTemplate implements banger.Templates.
func (t templates) CreateTemplate(ctx context.Context, spec banger.TemplateSpec, p banger.Progress) (banger.Template, error) {
	k, err := t.engine.Kindred(ctx, spec, p)
	if err != nil {
		return banger.Template{}, err
	}
	sub := template.Subject{Hypervisor: k.Spec.Hypervisor, Kernel: k.KernelID, Machine: k.Machine}
	if spec.Image != "" {
		sub.Image = &template.Image{
			Name: k.Spec.Image, ID: k.ImageID, DiskMiB: k.Spec.DiskMiB, Disks: k.Disks, Identity: k.Identity, After: spec.After,
		}
	}
	return t.Make(ctx, sub, p)
}

// flatten and writeInitramfs join drivers that don't know each other.
func flatten(ctx context.Context, tar io.Reader, out *os.File) error {
	_, err := rootfs.Write(ctx, tar, out, nil)
	return err
}

func writeInitramfs(w io.Writer, agent []byte, early, late []debian.Module) error {
	return initramfs.Build(w, agent, modules(early), modules(late))
}

func modules(in []debian.Module) []initramfs.Module {
	out := make([]initramfs.Module, len(in))
	for i, m := range in {
		out[i] = initramfs.Module(m)
	}
	return out
}
