// Package vm_test runs the real CLI, daemon, shim and agent on real microVMs.
package vm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger"
)

// Storms are short in an ordinary run, and the longest of the image templates' tests
// left out; the flags make them as long as one likes.
var (
	long        = flag.Bool("long", false, "run what is left out otherwise: deaths and sabotage while image templates are made and restored")
	daemonKills = flag.Int("daemon-kills", 60, "how often the channel storm kills the daemon")
	shimKills   = flag.Int("shim-kills", 8, "how often the channel storm kills the shim")
	busyBoots   = flag.Int("busy-boots", 4, "how many boots are tried on a busy host")
	hypervisor  = flag.String("hypervisor", "qemu", "what VMs run on: qemu or firecracker")
	warm        = flag.Bool("warm", false, "start VMs from templates")
	busybox     = flag.Bool("busybox", false, "make VMs of busybox alone: enough for what kills them")
	diskDriver  = flag.String("disk-driver", "file", "the disks of all VMs")
	network     = flag.String("net", "user", "the network of all VMs: with bridge, run the tests as root in a network namespace of their own (ip netns exec)")
	busyClock   = flag.Duration("busy-clock", 20*time.Second, "how long the guest's clock runs on a busy host before it is compared")
)

const image = "debian-12"

// takesLong leaves a test of several minutes to -long.
func takesLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("left out: run it with -long")
	}
}

// host is one private installation: its own directories, its own daemon.
type host struct {
	bin, state string
	env        []string
	netns      string        // run everything in this network namespace
	creation   time.Duration // how long the first one took, of an installation apart
}

var shared *host

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(serveHere) != "" {
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		if _, err := exec.LookPath("qemu-system-x86_64"); err != nil && *hypervisor == "qemu" {
			fmt.Println("SKIP: no qemu-system-x86_64 here, so no VM can be run")
			return 0
		}
		dir, err := os.MkdirTemp("", "banger-vm-test")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer os.RemoveAll(dir)
		if shared, err = install(dir); err != nil {
			fmt.Println(err)
			return 1
		}
		defer shared.end()
		return m.Run()
	}())
}

// install builds the programs and gives them a kernel and the default image.
// Downloads and the root tar are kept between runs.
func install(dir string) (*host, error) {
	home, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(home, "banger-test")
	h := &host{bin: filepath.Join(dir, "bin"), state: filepath.Join(dir, "state")}
	h.env = append(os.Environ(), "CGO_ENABLED=0", "XDG_STATE_HOME="+h.state,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CACHE_HOME="+cache, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
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
	settings := fmt.Appendf(nil, "%swarm_start = %v\ndisk_driver = %q\nnet = %q\n", onHypervisor(), *warm, *diskDriver, *network)
	if err := os.WriteFile(filepath.Join(conf, "config.toml"), settings, 0o600); err != nil {
		return nil, err
	}
	if built := os.Getenv("BANGER_BIN"); built != "" { // a machine without Go
		h.bin = built
	} else {
		build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", h.bin+"/", "banger/cmd/...")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // Go's own cache is where it always is
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build: %w: %s", err, out)
		}
	}
	tar := filepath.Join(cache, image+".tar")
	give := []string{"image", "import", "--name", image, tar}
	switch {
	case *busybox:
		tar = filepath.Join(dir, "small.tar")
		give[len(give)-1] = tar
		err = smallTar(tar)
	case noRoot():
		give = []string{"image", "build", image} // slower: a VM configures it, each time anew
	default:
		err = rootTar(tar)
	}
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"kernel", "pull"}, give} {
		if r := h.within(20*time.Minute, nil, args...); r.status != 0 {
			return nil, fmt.Errorf("banger %s: status %d: %s%s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
		}
	}
	// Downloads outlive the run, templates don't.
	h.close()
	h.env = append(h.env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	if *warm { // made beforehand, so that an inventory meets no maker
		if r := h.run(nil, "template", "create"); r.status != 0 {
			return nil, fmt.Errorf("make a template: %s", r.stderr)
		}
	}
	return h, nil
}

// onHypervisor is the part of every configuration that says what VMs run on, and
// that a busy host is no reason to give one up.
func onHypervisor() string {
	return fmt.Sprintf("hypervisor = %q\nfirecracker = %q\nboot_deadline = '3m'\n", *hypervisor, os.Getenv("BANGER_FIRECRACKER"))
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

// rootTar makes the default image's tar, unless it is there and no older than
// the list it is made from.
func rootTar(tar string) error {
	list := "../../images/" + image + ".list"
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

// smallTar makes a root of busybox with all its names.
func smallTar(tar string) error {
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

func (h *host) close() {
	h.run(nil, "daemon", "stop")
}

// end ends what tests that failed have left running, too.
func (h *host) end() {
	if left := strings.Fields(string(h.run(nil, "vm", "list", "-q").stdout)); len(left) > 0 {
		fmt.Println("left by tests:", left)
		h.run(nil, append([]string{"vm", "delete"}, left...)...)
	}
	h.close()
}

type result struct {
	stdout, stderr []byte
	status         int
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append([]string{filepath.Join(h.bin, "banger")}, args...)
	if h.netns != "" {
		// ip-netns(8) gives it a new /sys, without the cgroups that a jail wants.
		argv = append([]string{"ip", "netns", "exec", h.netns, "sh", "-c", `mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec "$@"`, "sh"}, argv...)
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = h.env
	return c
}

// run runs one banger command to its end, four minutes at most.
func (h *host) run(stdin []byte, args ...string) result {
	return h.within(4*time.Minute, stdin, args...)
}

// within is run for so long: then the command says where it hangs.
func (h *host) within(bound time.Duration, stdin []byte, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), patience(bound))
	defer cancel()
	c := h.command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errs
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGABRT) } // the runtime prints all stacks
	c.WaitDelay = 10 * time.Second
	err := c.Run()
	r := result{out.Bytes(), errs.Bytes(), 0}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.status = exit.ExitCode()
	} else if err != nil {
		r.status, r.stderr = -1, []byte(err.Error())
	}
	return r
}

// ok runs a command that must succeed and returns what it printed.
func (h *host) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := h.run(nil, args...)
	if r.status != 0 {
		t.Fatalf("banger %s: status %d\n%s%s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
	}
	return string(r.stdout)
}

var serial atomic.Int32

// newVM creates a running VM that is gone when the test ends.
func (h *host) newVM(t *testing.T, args ...string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", serial.Add(1))
	h.ok(t, append([]string{"vm", "create", "--name", name}, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", h.run(nil, "vm", "show", name).stdout)
			logs := h.run(nil, "vm", "logs", name).stdout
			t.Logf("console: %s", logs[max(0, len(logs)-2000):])
		}
		if r := h.run(nil, "vm", "delete", name); r.status != 0 {
			t.Errorf("delete %s: %s", name, r.stderr)
		}
	})
	return name
}

// show returns what the daemon says of a VM.
func (h *host) show(t *testing.T, name string) banger.VM {
	t.Helper()
	var vm banger.VM
	if err := json.Unmarshal([]byte(h.ok(t, "vm", "show", "--json", name)), &vm); err != nil {
		t.Fatal(err)
	}
	return vm
}

// list returns what the daemon says of all VMs.
func (h *host) list(t *testing.T) (vms []banger.VM) {
	t.Helper()
	if err := json.Unmarshal([]byte(h.ok(t, "vm", "list", "--json")), &vms); err != nil {
		t.Fatal(err)
	}
	return vms
}

// booted waits until the image's init has finished and returns what it then says.
// It lets systemctl do the waiting: asking again and again takes from a guest on a
// busy host the CPU that it needs to come up.
func (h *host) booted(t *testing.T, name string) (state string) {
	t.Helper()
	until(t, "the end of systemd's start", 5*time.Minute, func() bool {
		state = strings.TrimSpace(string(h.run(nil, "vm", "exec", name, "--", "systemctl", "is-system-running", "--wait").stdout))
		return state == "running" || state == "degraded"
	})
	return state
}

// daemon returns the daemon's pid, waiting for one to be there: the streams in
// flight start it again when it was killed.
func (h *host) daemon(t *testing.T) (pid int) {
	t.Helper()
	until(t, "a daemon", time.Minute, func() bool {
		var status struct {
			PID int `json:"pid"`
		}
		_ = json.Unmarshal(h.run(nil, "daemon", "status", "--json").stdout, &status)
		pid = status.PID
		return pid != 0 && alive(pid)
	})
	return pid
}

// patience is how long a hang is waited for. What the lab does, an emulated
// machine does, perhaps on a quarter of a processor.
func patience(bound time.Duration) time.Duration {
	if os.Getenv("BANGER_LAB") != "" {
		return 3 * bound
	}
	return bound
}

// until waits for a condition, looking again every 20 ms.
func until(t *testing.T, what string, bound time.Duration, cond func() bool) {
	t.Helper()
	bound = patience(bound)
	for end := time.Now().Add(bound); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, bound)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
