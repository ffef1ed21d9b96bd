package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Install builds the programs and gives them a kernel and the default image.
// Downloads and the root tar are kept between runs, and made by one at a time.
func Install(dir string) (*Host, error) {
	home, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(home, "banger-test")
	h := &Host{Bin: filepath.Join(dir, "bin"), State: filepath.Join(dir, "state")}
	h.Env = append(os.Environ(), "CGO_ENABLED=0", "XDG_STATE_HOME="+h.State,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CACHE_HOME="+cache, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	unlock, err := lock(cache)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// The kernel is fetched once and kept too.
	kernels := filepath.Join(cache, "kernels")
	if err := errors.Join(os.MkdirAll(kernels, 0o700), os.MkdirAll(filepath.Join(dir, "data/banger"), 0o700),
		os.Symlink(kernels, filepath.Join(dir, "data/banger/kernels"))); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "config", "banger")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		return nil, err
	}
	settings := fmt.Appendf(nil, "%swarm_start = %v\ndisk_driver = %q\nnet = %q\n", OnHypervisor(), *Warm, *DiskDriver, *Network)
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
	give := []string{"image", "build", Image} // slower: a VM configures it, each time anew
	switch {
	case *Busybox:
		h.Tar = filepath.Join(dir, "small.tar")
		err = SmallTar(h.Tar)
	case !noRoot():
		h.Tar = filepath.Join(cache, Image+".tar")
		err = rootTar(h.Tar)
	}
	if err != nil {
		return nil, err
	}
	if h.Tar != "" {
		give = []string{"image", "import", "--name", Image, h.Tar}
	}
	for _, args := range [][]string{{"kernel", "pull"}, give} {
		if r := h.Within(20*time.Minute, nil, args...); r.Status != 0 {
			return nil, fmt.Errorf("banger %s: status %d: %s%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr)
		}
	}
	// Downloads outlive the run, templates don't. Kernels are its own from here on: the
	// initramfs beside one is the agent's, of which others' tests have others.
	h.Close()
	own := filepath.Join(dir, "data/banger/kernels")
	if err := os.Remove(own); err != nil {
		return nil, err
	}
	if out, err := exec.Command("cp", "-a", kernels, own).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the kernels: %w: %s", err, out)
	}
	h.Env = append(h.Env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	if *Warm && *Network == "user" { // made beforehand, so that an inventory meets no maker
		if r := h.Run(nil, "template", "create"); r.Status != 0 {
			return nil, fmt.Errorf("make a template: %s", r.Stderr)
		}
	}
	return h, nil
}

// lock makes a directory and keeps other tests out of it.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, unix.Flock(int(f.Fd()), unix.LOCK_EX)
}

// OnHypervisor is the part of every configuration that says what VMs run on, and
// that a busy host is no reason to give one up.
func OnHypervisor() string {
	return fmt.Sprintf("hypervisor = %q\nfirecracker = %q\nboot_deadline = '%v'\n", *Hypervisor, os.Getenv("BANGER_FIRECRACKER"), Patience(3*time.Minute))
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
	home, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(home, "banger-test")
	unlock, err := lock(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	tar := filepath.Join(cache, Image+".tar")
	if err := rootTar(tar); err != nil {
		t.Fatal(err)
	}
	return tar
}

// rootTar makes the default image's tar, unless it is there and no older than
// the list it is made from.
func rootTar(tar string) error {
	list := "../../images/" + Image + ".list"
	have, err := os.Stat(tar)
	want, werr := os.Stat(list)
	if werr != nil {
		return werr
	}
	if err == nil && have.Size() > 0 && have.ModTime().After(want.ModTime()) {
		return nil
	}
	out, err := os.Create(tar + ".new")
	if err != nil {
		return err
	}
	make := exec.Command("../../scripts/image", list, "bookworm")
	make.Stdout, make.Stderr = out, os.Stderr
	if err := make.Run(); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	return errors.Join(out.Close(), os.Rename(tar+".new", tar))
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
