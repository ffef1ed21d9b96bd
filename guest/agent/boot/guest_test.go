package boot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/fetch/debian"
	"banger/guest"
	"banger/guest/link"
	"banger/image/rootfs"
	"banger/kernel"
)

// suite is of the image with systemd. What these tests boot is made once and kept in
// the user's cache directory.
const suite = "bookworm"

// need skips the test where a tool is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
}

var cacheMu sync.Mutex // guards the cache within this process

// cached returns the cached file name, which build makes in an empty directory
// when it isn't there.
func cached(t *testing.T, name string, build func(dir string)) string {
	t.Helper()
	cacheMu.Lock()
	defer cacheMu.Unlock()
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	base = filepath.Join(base, "banger-test", "boot")
	path := filepath.Join(base, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(base, "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	build(tmp)
	if err := os.Rename(filepath.Join(tmp, name), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// debianImage has systemd, busyboxImage no init at all.
func debianImage(t *testing.T) string {
	return cached(t, "debian.erofs", func(dir string) {
		need(t, "mmdebstrap", "mkfs.erofs", "tar")
		if os.Getuid() != 0 {
			t.Skip("unpacking an image takes root")
		}
		run(t, dir, "mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,udev,dbus,kmod",
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", suite, "root.tar")
		run(t, dir, "mkdir", "root")
		run(t, dir, "tar", "-xf", "root.tar", "-C", "root", "--xattrs", "--numeric-owner")
		run(t, dir, "mkfs.erofs", "--quiet", "debian.erofs", "root")
	})
}

func busyboxImage(t *testing.T) string {
	return cached(t, "busybox.erofs", func(dir string) {
		need(t, "mkfs.erofs")
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			t.Skip("busybox is missing")
		}
		script := `mkdir -p root/bin root/var/lib && cp "$1" root/bin/busybox && for a in $("$1" --list); do
			case $a in init|linuxrc|busybox) ;; *) ln -s busybox root/bin/$a;; esac; done`
		run(t, dir, "sh", "-c", script, "sh", busybox)
		run(t, dir, "mkfs.erofs", "--quiet", "--all-root", "busybox.erofs", "root")
	})
}

// bootFiles fetches Debian's kernel as banger does, whatever the host's own packages
// are, and makes an initramfs with today's agent.
var bootFiles = sync.OnceValues(func() (k struct {
	banger.BootFiles
	version string
}, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return k, err
	}
	base = filepath.Join(base, "banger-test", "boot")
	agent := filepath.Join(base, "bin", "banger-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "banger/cmd/banger-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return k, fmt.Errorf("%w: %s", err, out)
	}
	if info, err := os.Stat(agent); err != nil || info.Size() > 8<<20 {
		return k, fmt.Errorf("the agent must have at most 8 MiB: %w, %+v", err, info)
	}
	kernels := &kernel.Kernels{
		Dir: filepath.Join(base, "kernels"), From: debian.Source{CacheDir: filepath.Join(base, "downloads")}, Agent: agent,
		Flatten: func(ctx context.Context, tar io.Reader, out *os.File) error {
			_, err := rootfs.Write(ctx, tar, out, nil)
			return err
		},
	}
	got, err := kernels.Pull(context.Background(), kernel.DefaultName, false, nil)
	if err != nil {
		return k, err
	}
	k.version = got.Version
	k.BootFiles, err = kernels.Boot(context.Background(), got.ID)
	return k, err
})

// newDisk makes a small ext4 file system in a larger file.
func newDisk(t *testing.T, mib int64) string {
	t.Helper()
	need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "disk")
	run(t, "/", "mke2fs", "-q", "-t", "ext4", path, "64M")
	if err := os.Truncate(path, mib<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

var errEnded = errors.New("the machine has ended")

// vm is a guest in QEMU, and the host's end of its channel.
type vm struct {
	t       *testing.T
	dir     string
	id      guest.Identity
	cmd     *exec.Cmd
	ctx     context.Context // ends with QEMU; its cause is errEnded unless QEMU complained
	mux     *link.Mux
	client  *guest.Client
	spawned time.Time
}

// start boots image with disk and returns when the agent is at its freeze point.
func start(t *testing.T, image, disk string) *vm {
	t.Helper()
	need(t, "qemu-system-x86_64", "go")
	ctx, ended := context.WithCancelCause(context.Background())
	v := &vm{t: t, dir: t.TempDir(), ctx: ctx}
	boot, err := bootFiles()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-M", "microvm,accel=tcg,pic=off,pit=off", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", boot.Vmlinux, "-initrd", boot.Initramfs,
		"-append", "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable tsc_early_khz=" + tscKHz(t),
		"-serial", "file:" + v.path("console"),
		"-chardev", "socket,id=ch,path=" + v.path("chan") + ",server=on,wait=off",
		"-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=ch,name=banger.agent,nr=1",
		"-netdev", "user,id=n,restrict=on", "-device", "virtio-net-device,netdev=n,mac=52:54:00:ba:00:01"}
	for _, d := range [][3]string{{image, "image", "readonly=on"}, {boot.Modules, "modules", "readonly=on"}, {disk, "disk", "readonly=off"}} {
		args = append(args, "-drive", "file="+d[0]+",format=raw,if=none,id="+d[1]+","+d[2],
			"-device", "virtio-blk-device,drive="+d[1]+",serial="+d[1])
	}
	v.cmd = exec.Command("qemu-system-x86_64", args...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // tests that time out clean up nothing
	var stderr bytes.Buffer
	v.cmd.Stderr = &stderr
	v.spawned = time.Now()
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := v.cmd.Wait()
		if err == nil {
			err = errEnded
		}
		if stderr.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, &stderr)
		}
		ended(err)
	}()
	t.Cleanup(v.cleanup)
	v.id = newIdentity(boot.version)
	v.dial()
	return v
}

func newIdentity(kernel string) guest.Identity {
	seed := make([]byte, 64)
	_, _ = rand.Read(seed)
	return guest.Identity{
		ID: "0123456789ab", Hostname: "sandbox", MachineID: hex.EncodeToString(seed[:16]), Entropy: seed,
		Net:           &guest.NetIdentity{MAC: "52:54:00:ba:00:02", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"},
		Drives:        guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"},
		KernelVersion: kernel,
	}
}

func (v *vm) path(name string) string { return filepath.Join(v.dir, name) }

// dial connects to the guest's port, as a shim would.
func (v *vm) dial() {
	v.t.Helper()
	var conn net.Conn
	v.wait(10*time.Second, "QEMU to listen", func() (err error) {
		conn, err = net.Dial("unix", v.path("chan"))
		return err
	})
	v.mux = link.New(conn, link.Host)
	v.client = &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		s, err := v.mux.Open(ctx)
		if err != nil {
			return nil, err
		}
		return s, nil
	}}
}

func (v *vm) cleanup() {
	if v.mux != nil {
		v.mux.Close()
	}
	early := v.ctx.Err() != nil
	_ = v.cmd.Process.Kill() // it may have ended
	<-v.ctx.Done()
	if v.t.Failed() {
		v.t.Logf("ended by itself: %v, %v; console:\n%s", early, context.Cause(v.ctx), v.console())
	}
}

func (v *vm) console() string {
	data, _ := os.ReadFile(v.path("console"))
	return string(data)
}

// wait tries until ok returns nil.
func (v *vm) wait(limit time.Duration, what string, ok func() error) {
	v.t.Helper()
	end := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			v.t.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func bound(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// configure makes the guest the VM of v.id.
func (v *vm) configure() guest.Ready {
	v.t.Helper()
	v.id.Time = time.Now()
	ready, err := v.client.Configure(bound(v.t), v.id)
	if err != nil {
		v.t.Fatalf("configure: %v", err)
	}
	return ready
}

// sh runs a script in the guest and returns its output without the last newline.
func (v *vm) sh(script string) string {
	v.t.Helper()
	out, err := v.try(script)
	if err != nil {
		v.t.Fatalf("%s: %v", script, err)
	}
	return out
}

func (v *vm) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(v.ctx, 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	status, err := v.client.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", script}}, guest.IO{Stdout: &out, Stderr: &errs})
	if err == nil && status.Code != 0 {
		err = fmt.Errorf("status %+v: %s", status, &errs)
	}
	return strings.TrimSuffix(out.String(), "\n"), err
}

// end waits until the console says how the machine ended and QEMU went away by
// itself; only a halted machine it has to end.
func (v *vm) end(console string) {
	v.t.Helper()
	v.wait(time.Minute, "the console to say "+console, func() error {
		if !strings.Contains(v.console(), console) {
			return errors.New("it doesn't")
		}
		return nil
	})
	if console == "System halted" {
		_ = v.cmd.Process.Kill()
		<-v.ctx.Done()
		return
	}
	select {
	case <-v.ctx.Done():
		if err := context.Cause(v.ctx); err != errEnded {
			v.t.Errorf("qemu: %v", err)
		}
	case <-time.After(10 * time.Second):
		v.t.Fatal("QEMU lingers")
	}
}

// tscKHz measures the host's TSC the way a guest will see it.
func tscKHz(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an amd64 host")
	}
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var mhz float64
		if _, v, ok := strings.Cut(line, "cpu MHz"); ok {
			if _, err := fmt.Sscanf(strings.TrimLeft(v, "\t :"), "%f", &mhz); err == nil {
				return fmt.Sprintf("%.0f", mhz*1000)
			}
		}
	}
	t.Skip("/proc/cpuinfo doesn't say the CPU's rate")
	return ""
}
