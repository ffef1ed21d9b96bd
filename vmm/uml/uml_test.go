package uml_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/fetch/debian"
	"banger/guest"
	"banger/host/proc"
	"banger/image/rootfs"
	"banger/kernel"
	"banger/test/hypervisortest"
	"banger/test/vmtest"
	"banger/vmm/jail"
	"banger/vmm/uml"
)

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "banger-test", "uml")
	return dir, os.MkdirAll(dir, 0o700)
}

// programs builds what a VM needs of ours, once, below a directory that every user may enter: a
// daemon of root runs banger-jail as another.
var programs = sync.OnceValues(func() (dir string, err error) {
	if built := os.Getenv("BANGER_BIN"); built != "" {
		return built, nil
	}
	if dir, err = os.MkdirTemp("", "banger-uml-test"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", dir+"/", "banger/cmd/banger-shim", "banger/cmd/banger-agent", "banger/cmd/banger-jail")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	status := m.Run()
	if dir, err := programs(); err == nil && os.Getenv("BANGER_BIN") == "" && !testing.Short() {
		_ = os.RemoveAll(dir)
	}
	os.Exit(status)
}

// boot is a kernel, and its version.
type boot struct {
	banger.BootFiles
	version string
}

var bootFiles = sync.OnceValues(func() (boot, error) { return kernelOf("debian-13-uml") })

// kernelOf fetches a kernel, once per user, and makes an initramfs with today's agent.
func kernelOf(name string) (b boot, err error) {
	bin, err := programs()
	if err != nil {
		return b, err
	}
	base, err := cacheDir()
	if err != nil {
		return b, err
	}
	k := &kernel.Kernels{
		Dir: filepath.Join(base, "kernels"), From: debian.Source{CacheDir: filepath.Join(base, "downloads")},
		Agent: filepath.Join(bin, "banger-agent"),
		Flatten: func(ctx context.Context, tar io.Reader, out *os.File) error {
			_, err := rootfs.Write(ctx, tar, out, nil)
			return err
		},
	}
	got, err := k.Pull(context.Background(), name, false, nil)
	if err != nil {
		return b, err
	}
	b.version = got.Version
	b.BootFiles, err = k.Boot(context.Background(), got.ID)
	return b, err
}

func newDriver(t *testing.T) *uml.Driver {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(bin, "banger-jail")
	v, err := jail.Stands(t.Context(), program, filepath.Join(t.TempDir(), "jail.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !v.Stands {
		t.Skipf("no jail stands here: %s", v.Detail)
	}
	return uml.New(uml.Config{Shim: filepath.Join(bin, "banger-shim"), Jail: program})
}

// newMachine returns a machine that boots to its agent. Its directory lies too deep for a
// socket's path.
func newMachine(t *testing.T, d banger.Hypervisor) banger.Machine {
	t.Helper()
	files, err := bootFiles()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep, ", 20), "vm")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	m := banger.Machine{
		ID: strconv.FormatInt(time.Now().UnixNano(), 16), Dir: dir, RAMDir: t.TempDir(),
		VCPU: 1, MemoryMiB: 256, Kernel: files.Vmlinux, Initramfs: files.Initramfs,
		Drives: []banger.Drive{{Serial: "modules", Path: files.Modules, ReadOnly: true}, {Serial: "disk", Path: disk}},
		Net:    banger.NetConfig{Mode: banger.NetUser, MAC: "52:54:00:12:34:56", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(console(m))
		}
		if left, err := d.Kill(context.Background(), m, banger.Handles{}); err != nil || !left.Empty() {
			t.Errorf("Kill left %+v: %v", left, err)
		}
	})
	return m
}

func TestContract(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Bed {
		d := newDriver(t)
		return hypervisortest.Bed{Hypervisor: d, Machine: newMachine(t, d), Host: host{}, NoRAMFile: true}
	})
}

// host is this one.
type host struct{ vmtest.Processes }

// Bystander is a shell whose arguments are a jail's and a shim's.
func (host) Bystander(t *testing.T, m banger.Machine) banger.Process {
	t.Helper()
	return vmtest.Shell(t, "banger-jail", "-c", "read line", m.Dir, "banger-"+m.ID)
}

// Held lists the processes that name the machine, or are in a namespace of its jail.
func (host) Held(t *testing.T, m banger.Machine) (held []string) {
	t.Helper()
	for s := range proc.All(func(exe, _ string) bool {
		return strings.HasPrefix(filepath.Base(exe), "banger-") || filepath.Base(exe) == "linux"
	}) {
		if line := strings.Join(s.Argv, " "); strings.Contains(line, m.ID) || strings.Contains(line, m.Dir) {
			held = append(held, fmt.Sprintf("process %d: %s", s.PID, line))
		}
	}
	return held
}

// A machine whose socket is gone is found among all processes.
func TestFoundWithoutSocket(t *testing.T) {
	d := newDriver(t)
	m := newMachine(t, d)
	h, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.Dir, jail.SocketFile)); err != nil {
		t.Fatal(err)
	}
	got, alive, err := d.Adopt(t.Context(), m, banger.Handles{})
	if err != nil || !alive || got != h {
		t.Errorf("found %+v, alive %v, %v; want %+v", got, alive, err, h)
	}
	another := m
	another.ID, another.Dir = "a1", filepath.Join(t.TempDir(), "a1")
	if got, alive, err := d.Adopt(t.Context(), another, banger.Handles{VMM: h.VMM}); alive || err != nil {
		t.Errorf("another machine's is %+v, alive %v, %v", got, alive, err)
	}
}

// What it can't do it refuses, and says what can.
func TestRefuses(t *testing.T) {
	d := uml.New(uml.Config{Shim: "/no/shim", Jail: "/no/jail"})
	for want, m := range map[string]banger.Machine{
		"no rate limits":  {Limits: banger.Limits{DiskMiB: 1}, VCPU: 1},
		"one processor":   {VCPU: 2},
		"on a bridge":     {VCPU: 1, Net: banger.NetConfig{Mode: banger.NetBridge}},
		"isn't made of 1": {VCPU: 1},
	} {
		_, err := d.Start(t.Context(), m)
		if err == nil || banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Every end is told from the others.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(ctx context.Context, c *guest.Client, h banger.Handles) error
		want banger.ExitKind
	}{
		{"poweroff", func(ctx context.Context, c *guest.Client, _ banger.Handles) error { return c.Shutdown(ctx, "poweroff") }, banger.ExitPoweroff},
		{"reboot", func(ctx context.Context, c *guest.Client, _ banger.Handles) error { return c.Shutdown(ctx, "reboot") }, banger.ExitReboot},
		{"panic", func(ctx context.Context, c *guest.Client, _ banger.Handles) error {
			_, _ = c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}}, guest.IO{}) // never ends
			return nil
		}, banger.ExitPanic},
		{"killed", func(_ context.Context, _ *guest.Client, h banger.Handles) error {
			return proc.Kill(h.VMM, unix.SIGKILL)
		}, banger.ExitKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, d, client, h := running(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			exited := make(chan banger.Exit, 1)
			go func() {
				exit, err := d.Wait(ctx, m, h)
				if err != nil {
					t.Error(err)
				}
				exited <- exit
				cancel()
			}()
			if err := c.end(ctx, client, h); err != nil {
				t.Errorf("%v", err)
			}
			if exit := <-exited; exit.Kind != c.want {
				t.Errorf("it ended as %+v, want %q\n%s", exit, c.want, console(m))
			}
		})
	}
}

func console(m banger.Machine) string {
	text, _ := os.ReadFile(filepath.Join(m.Dir, "console.log"))
	for _, name := range []string{"vmm.log", "shim.log", "jail.end", "exit.json"} {
		more, _ := os.ReadFile(filepath.Join(m.Dir, name)) // what is missing has nothing to say
		text = append(text, more...)
	}
	return string(text)
}

// running starts a machine with an image, and configures its guest.
func running(t *testing.T) (banger.Machine, *uml.Driver, *guest.Client, banger.Handles) {
	t.Helper()
	d := newDriver(t)
	m := newMachine(t, d)
	furnish(t, &m)
	files, err := bootFiles()
	if err != nil {
		t.Fatal(err)
	}
	h, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return m, d, configure(t, d, m, files.version), h
}

// furnish gives a machine an image, and makes a file system on its disk.
func furnish(t *testing.T, m *banger.Machine) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	tar := filepath.Join(t.TempDir(), "small.tar")
	if err := vmtest.SmallTar(tar); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := rootfs.Write(t.Context(), in, out, nil); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("mke2fs", "-q", "-t", "ext4", m.Drives[1].Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	m.Drives = append(m.Drives, banger.Drive{Serial: "image", Path: image, ReadOnly: true})
}

// configure makes a booted guest a machine with that image.
func configure(t *testing.T, d banger.Hypervisor, m banger.Machine, kernel string) *guest.Client {
	t.Helper()
	c := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, m) }}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Configure(ctx, guest.Identity{
		ID: "a1", Hostname: "a1", MachineID: strings.Repeat("a", 32), Entropy: make([]byte, 32), KernelVersion: kernel,
		Net:    &guest.NetIdentity{MAC: m.Net.MAC, Address: m.Net.Address, Gateway: m.Net.Gateway, DNS: m.Net.DNS},
		Drives: guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"},
	})
	if err != nil {
		t.Fatalf("configure: %v\n%s", err, console(m))
	}
	return c
}

// The guest reaches its gateway over the user network, also after the shim was replaced, and
// what it writes is on its disk. On the host it sees nothing.
func TestGuest(t *testing.T) {
	m, d, c, h := running(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(script string) string {
		t.Helper()
		var out bytes.Buffer
		status, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", script}}, guest.IO{Stdout: &out, Stderr: &out})
		if err != nil || status.Code != 0 {
			t.Errorf("%s: %+v, %v\n%s\n%s", script, status, err, out.String(), console(m))
		}
		return out.String()
	}
	run("ping -c 1 -w 20 " + m.Net.Gateway)
	if err := proc.Kill(h.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(ctx, h.Shim); err != nil {
		t.Fatal(err)
	}
	if _, alive, err := d.Adopt(ctx, m, h); !alive || err != nil {
		t.Fatalf("alive %v, %v", alive, err)
	}
	run("ping -c 1 -w 20 " + m.Net.Gateway)
	if text := run("mkdir /h && mount -t hostfs none /h && ls /h && ls /h/etc /h/home /h/root 2>/dev/null; true"); strings.Contains(text, "passwd") {
		t.Errorf("the guest sees its host:\n%s", text)
	}
	run("echo kept >/kept && sync")
}
