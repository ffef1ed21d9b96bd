package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/kernel/initramfs"
	"banger/kernel/kmod"
)

// The modules that a guest needs before it can mount anything. The modules they depend
// on are added, and those built into the kernel are left out.
var (
	// early is loaded before the freeze point. None of it looks at a disk or a network
	// device, so that a frozen guest can be restored with any of them. It has the
	// drivers of all channels to the host; the agent loads only the one that it needs.
	early = []string{"virtio", "virtio_ring", "virtio_mmio", "virtio_console", "vmw_vsock_virtio_transport", "overlay", "erofs"}
	late  = []string{"virtio_blk", "ext4", "virtio_net", "virtio_rng", "virtio_balloon"}
	// A kernel that is a program has its own drivers of disks and networks built in.
	umlEarly = []string{"vmw_vsock_virtio_transport", "overlay", "erofs"}
)

// build turns verified packages into the content of a kernel's directory.
func (k *Kernels) build(ctx context.Context, debs []string, dir string, r *record) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var c contents
	for _, deb := range debs {
		if err := c.unpack(ctx, deb, root); err != nil {
			return err
		}
	}
	return k.finish(ctx, root, dir, &c, r)
}

// finish turns what was unpacked into dir, which is root, into the content of a kernel's
// directory.
func (k *Kernels) finish(ctx context.Context, root *os.Root, dir string, c *contents, r *record) error {
	if c.version == "" || c.vmlinux == nil {
		return errors.New("there is no boot/vmlinuz-VERSION or linux.uml with modules beside it")
	}
	r.Version = c.version
	if c.program {
		r.Hypervisor = "uml"
		for _, file := range libraryFiles {
			if _, err := root.Stat(filepath.Join("lib", filepath.Base(file))); err != nil {
				return fmt.Errorf("the kernel's library: %w", err)
			}
		}
	}
	mode := os.FileMode(0o644)
	if c.program {
		mode = 0o755
	}
	if err := root.WriteFile("vmlinux", c.vmlinux, mode); err != nil {
		return err
	}
	if err := addModules(root, c.program); err != nil {
		return err
	}
	if err := k.flatten(ctx, filepath.Join(dir, "modules"), filepath.Join(dir, "modules.erofs")); err != nil {
		return fmt.Errorf("modules image: %w", err)
	}
	if err := root.RemoveAll("modules"); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return root.WriteFile("kernel.json", data, 0o644)
}

// addModules writes the lookup tables into modules/ and copies the modules of
// the initramfs out of it. program says that the kernel is one.
func addModules(root *os.Root, program bool) error {
	modules, err := root.OpenRoot("modules")
	if err != nil {
		return err
	}
	defer func() { _ = modules.Close() }()
	tree, err := kmod.Read(modules.FS())
	if err != nil {
		return err
	}
	tables, err := tree.Tables()
	if err != nil {
		return err
	}
	for name, data := range tables {
		if err := modules.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	early, late := early, late
	if program {
		early, late = umlEarly, nil
	}
	first, err := tree.Load(early...)
	if err != nil {
		return err
	}
	all, err := tree.Load(slices.Concat(early, late)...)
	if err != nil {
		return err
	}
	for stage, list := range map[string][]kmod.Module{"early": first, "late": all[len(first):]} {
		if err := copyModules(root, modules, stage, list); err != nil {
			return err
		}
	}
	return nil
}

func copyModules(root, modules *os.Root, stage string, list []kmod.Module) error {
	dir := filepath.Join("boot-modules", stage)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, m := range list {
		data, err := modules.ReadFile(m.Path)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, fmt.Sprintf("%02d-%s.ko", i, m.Name))
		if err := root.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// flatten makes the modules image: its root is /lib/modules/VERSION.
func (k *Kernels) flatten(ctx context.Context, dir, image string) error {
	out, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(writeTar(ctx, w, dir))
	}()
	err = k.Flatten(ctx, r, out)
	r.CloseWithError(errors.New("the image writer has stopped reading"))
	<-done
	if err != nil {
		return err
	}
	return out.Close()
}

// writeTar writes a tree of directories and plain files that doesn't change meanwhile.
// The same tree always gives the same bytes.
func writeTar(ctx context.Context, w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if d.IsDir() {
			h.Name, h.Mode, h.Typeflag = name+"/", 0o755, tar.TypeDir
			return t.WriteHeader(h)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		h.Size = int64(len(data))
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err = t.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// agentSum caches the agent's hash, which every start of a VM needs.
type agentSum struct {
	file os.FileInfo
	sum  string
}

// agentHash returns the first 16 hex digits of the agent's sha256.
func (k *Kernels) agentHash() (string, error) {
	info, err := os.Stat(k.Agent)
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "guest agent: %w", err).
			WithHint("banger-agent must be in the same directory as bangerd")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.agent.file; old != nil && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) && old.Size() == info.Size() {
		return k.agent.sum, nil
	}
	data, err := os.ReadFile(k.Agent)
	if err != nil {
		return "", err
	}
	k.agent = agentSum{info, hashOf(data)}
	return k.agent.sum, nil
}

func hashOf(agent []byte) string {
	sum := sha256.Sum256(agent)
	return hex.EncodeToString(sum[:8])
}

// initramfs returns the path of a kernel's initramfs with the present agent.
func (k *Kernels) initramfs(ctx context.Context, id string) (string, error) {
	sum, err := k.agentHash()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(k.Dir, id)
	file := filepath.Join(dir, "initramfs-"+sum)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	lock, err := k.lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, k.writeInitramfs(dir, file, sum)
}

// writeInitramfs is called with the kernel's lock. It removes the old initramfs: running
// VMs no longer need it.
func (k *Kernels) writeInitramfs(dir, file, sum string) error {
	first, err := readModules(filepath.Join(dir, "boot-modules/early"))
	if err != nil {
		return err
	}
	second, err := readModules(filepath.Join(dir, "boot-modules/late"))
	if err != nil {
		return err
	}
	agent, err := os.ReadFile(k.Agent)
	if err != nil {
		return err
	}
	if hashOf(agent) != sum {
		return errors.New("the guest agent was replaced at this moment: try again")
	}
	for _, pattern := range []string{".initramfs-*", "initramfs-*"} {
		old, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is well-formed
		for _, o := range old {
			if err := os.Remove(o); err != nil {
				return err
			}
		}
	}
	tmp, err := os.CreateTemp(dir, ".initramfs-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone by its new name when all went well
	defer tmp.Close()
	if !signatureForced(dir) {
		unsign(first)
		unsign(second)
	}
	if err := initramfs.Build(tmp, agent, first, second); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// signatureForced reports whether the kernel in dir may refuse to load modules that
// aren't signed.
func signatureForced(dir string) bool {
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	return err != nil || bytes.Contains(config, []byte("CONFIG_MODULE_SIG_FORCE=y"))
}

// unsign removes the modules' signatures. The package was checked on this host, and in
// an emulated guest checking them all takes 0.3 s, more than loading most modules. The
// kernel marks itself as tainted by this (E).
func unsign(list []initramfs.Module) {
	for i, m := range list {
		list[i].Data = kmod.Unsigned(m.Data)
	}
}

func readModules(dir string) ([]initramfs.Module, error) {
	entries, err := os.ReadDir(dir) // sorted: the names begin with numbers
	if err != nil {
		return nil, err
	}
	var list []initramfs.Module
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(e.Name(), "-")
		list = append(list, initramfs.Module{Name: kmod.Name(name), Data: data})
	}
	return list, nil
}
