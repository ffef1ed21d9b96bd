package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/host/hostfs"
)

// Install builds the programs and gives them a kernel and the default image.
func Install(dir string) (*Host, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	h := &Host{Bin: filepath.Join(dir, "bin"), State: filepath.Join(dir, "state")}
	h.Env = append(os.Environ(), "CGO_ENABLED=0", "XDG_STATE_HOME="+h.State,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CACHE_HOME="+cache, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	conf := filepath.Join(dir, "config", "banger")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		return nil, err
	}
	settings := fmt.Appendf(nil, "%s%swarm_start = %v\ndisk_driver = %q\nnet = %q\n", OnHypervisor(), ofSize(""), *Warm, *DiskDriver, *Network)
	if err := os.WriteFile(filepath.Join(conf, "config.toml"), settings, 0o600); err != nil {
		return nil, err
	}
	if built := os.Getenv("BANGER_BIN"); built != "" { // a machine without Go
		h.Bin = built
	} else {
		build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", h.Bin+"/", "banger/cmd/...")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // Go's own cache is where it always is
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build: %w: %s", err, out)
		}
	}
	if err := h.supply(dir, cache); err != nil {
		return nil, err
	}
	h.Env = append(h.Env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache")) // downloads outlive the run, templates don't
	if *Warm && *Network == "user" && *Hypervisor != "uml" {             // made beforehand, so that an inventory meets no maker
		if r := h.Run(nil, "template", "create"); r.Status != 0 {
			return nil, fmt.Errorf("make a template: %s", r.Stderr)
		}
	}
	return h, nil
}

// supply gives an installation in dir a kernel and the default image. Downloads and
// the root tar are kept in the cache between runs, and made by one at a time.
func (h *Host) supply(dir, cache string) error {
	unlock, err := lock(cache)
	if err != nil {
		return err
	}
	defer unlock()
	kept, own := filepath.Join(cache, "kernels"), filepath.Join(dir, "data/banger/kernels")
	if err := errors.Join(os.MkdirAll(kept, 0o700), os.MkdirAll(filepath.Dir(own), 0o700), os.Symlink(kept, own)); err != nil {
		return err
	}
	give := []string{"image", "build", "--minimal", Image} // slower: a VM configures it, each time anew
	switch {
	case *Busybox:
		h.Tar = filepath.Join(dir, "small.tar")
		err = SmallTar(h.Tar)
	case !noRoot():
		h.Tar, err = rootTar(cache)
	}
	if err != nil {
		return err
	}
	if h.Tar != "" {
		give = []string{"image", "import", "--name", Image, h.Tar}
	}
	for _, args := range [][]string{{"kernel", "pull"}, give} {
		if r := h.Within(20*time.Minute, nil, args...); r.Status != 0 {
			return fmt.Errorf("banger %s: status %d: %s%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr)
		}
	}
	h.Close()
	// Kernels are its own from here on: the initramfs beside one is the agent's, of
	// which others' tests have others.
	if err := os.Remove(own); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", kept, own).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the kernels: %w: %s", err, out)
	}
	return nil
}

// cacheDir is what all installations keep between runs.
func cacheDir() (string, error) {
	home, err := os.UserCacheDir()
	return filepath.Join(home, "banger-test"), err
}

// lock makes a directory and keeps other tests out of it.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := hostfs.OpenLocked(context.Background(), filepath.Join(dir, "lock"))
	return func() { _ = f.Close() }, err
}

// OnHypervisor is the part of every configuration that says what VMs run on, and
// that a busy host is no reason to give one up.
func OnHypervisor() string {
	return fmt.Sprintf("hypervisor = %q\nfirecracker = %q\nboot_deadline = '%v'\n", *Hypervisor, os.Getenv("BANGER_FIRECRACKER"), Patience(3*time.Minute))
}

// ofSize is what a configuration lacks to make VMs of one size on every host: one CPU, 1 GiB.
// The port of the user's own proxy stays theirs.
func ofSize(toml string) string {
	sizes := ""
	for key, value := range map[string]int{"vcpu": 1, "memory_mib": 1024, "proxy_port": 0} {
		if !strings.Contains(toml, key+" =") {
			sizes += fmt.Sprintf("%s = %d\n", key, value)
		}
	}
	return sizes
}

// noRoot says that mmdebstrap can't make a root here: an ordinary user takes a user
// namespace for that, which containers and chroots mostly refuse.
func noRoot() bool {
	if os.Getuid() == 0 {
		return false
	}
	try := exec.Command("true")
	try.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	return try.Run() != nil
}

// RootTar is the default image's tar, of which the default image isn't made with
// -busybox.
func RootTar(t *testing.T) string {
	t.Helper()
	if noRoot() {
		t.Skip("no user namespaces here, which making a root without being root takes")
	}
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	tar, err := rootTar(cache)
	if err != nil {
		t.Fatal(err)
	}
	return tar
}

// rootTar makes the default image's tar, unless it is there and no older than
// the list it is made from.
func rootTar(cache string) (tar string, err error) {
	tar, list := filepath.Join(cache, Image+".tar"), "../../image/bootstrap/minimal.list"
	have, err := os.Stat(tar)
	want, werr := os.Stat(list)
	if werr != nil {
		return "", werr
	}
	if err == nil && have.Size() > 0 && have.ModTime().After(want.ModTime()) {
		return tar, nil
	}
	out, err := os.Create(tar + ".new")
	if err != nil {
		return "", err
	}
	make := exec.Command("../../scripts/image", list, "bookworm")
	make.Stdout, make.Stderr = out, os.Stderr
	if err := make.Run(); err != nil {
		return "", fmt.Errorf("make the image: %w", err)
	}
	return tar, errors.Join(out.Close(), os.Rename(tar+".new", tar))
}

// SmallTar makes a root of busybox with all its names.
func SmallTar(tar string) error {
	root := tar + ".root"
	out, err := exec.Command("sh", "-ec", `mkdir "$1" && cd "$1"
mkdir bin dev etc proc root run sys tmp var
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
cp /bin/busybox bin/
for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
tar -cf "$2" .`, "sh", root, tar).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the small image: %w: %s", err, out)
	}
	return os.RemoveAll(root)
}
