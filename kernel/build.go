package debian

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
	"banger/kmod"
)

// What a guest needs before it can mount anything. Dependencies are added from
// the modules themselves, what a kernel has built in is left out.
var (
	// early is loaded before the freeze point: nothing in it looks at a disk or
	// a network device, so a guest frozen after it fits any of them. Which channel
	// to the host a machine has, and so which driver of it, its agent knows.
	early = []string{"virtio", "virtio_ring", "virtio_mmio", "virtio_console", "vmw_vsock_virtio_transport", "overlay", "erofs"}
	late  = []string{"virtio_blk", "ext4", "virtio_net", "virtio_rng", "virtio_balloon"}
)

// build turns a verified package into the content of a kernel's directory.
func (k *Kernels) build(ctx context.Context, deb, dir string, r *record) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c, err := unpack(ctx, f, info.Size(), root)
	if err != nil {
		return err
	}
	r.Version = c.version
	if err := root.WriteFile("vmlinux", c.vmlinux, 0o644); err != nil {
		return err
	}
	if err := addModules(root); err != nil {
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
// the initramfs out of it.
func addModules(root *os.Root) error {
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
	first, err := tree.Load(early...)
	if err != nil {
		return err
	}
	all, err := tree.Load(append(slices.Clone(early), late...)...)
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

// writeTar writes a tree of directories and plain files that nobody else
// touches; the same tree gives the same bytes, whoever unpacked it and when.
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

// agentSum remembers an agent's hash, which every start of a VM asks for.
type agentSum struct {
	file os.FileInfo
	sum  string
}

// agentHash returns the first 16 hex digits of the agent's sha256.
func (k *Kernels) agentHash() (string, error) {
	info, err := os.Stat(k.Agent)
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "guest agent: %w", err).
			WithHint("banger-agent must lie beside bangerd")
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
	unlock, err := lock(ctx, filepath.Join(k.Dir, ".lock-"+id))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, k.writeInitramfs(dir, file, sum)
}

// writeInitramfs runs with the kernel's lock held. It removes what it replaces:
// a running VM has read its own long ago.
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
		return errors.New("the guest agent was replaced in this moment: try again")
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
	if err := k.Initramfs(tmp, agent, first, second); err != nil {
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

// unsign takes the modules' signatures away: those were checked, as a part of the
// package's, on this host, and in an emulated guest it takes longer to check one
// than to load most modules, 0.3 s for all. The kernel notes it as the taint E.
func unsign(list []Module) {
	for i, m := range list {
		list[i].Data = kmod.Unsigned(m.Data)
	}
}

func readModules(dir string) ([]Module, error) {
	entries, err := os.ReadDir(dir) // sorted: the numbers in front are the order
	if err != nil {
		return nil, err
	}
	var list []Module
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(e.Name(), "-")
		list = append(list, Module{kmod.Name(name), data})
	}
	return list, nil
}
