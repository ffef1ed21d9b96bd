// Package vmtest gives tests an installation of banger: the real CLI, daemon, shim and
// agent, a kernel and an image, and what such an installation holds of the host.
package vmtest

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
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/vmm/kvm"
)

// What VMs are in a run.
var (
	Long       = flag.Bool("long", false, "run what is left out otherwise: deaths and sabotage while image templates are made and restored")
	Hypervisor = flag.String("hypervisor", "", "what VMs run on: qemu, firecracker or uml; default: qemu where KVM works, else uml, as users' do")
	Warm       = flag.Bool("warm", true, "start VMs from templates, as users' are by default")
	Busybox    = flag.Bool("busybox", false, "make VMs of busybox alone: enough for what kills them")
	DiskDriver = flag.String("disk-driver", "file", "the disks of all VMs")
	Network    = flag.String("net", "user", "the network of all VMs: with bridge, run the tests as root in a network namespace of their own (ip netns exec)")
)

// Image is the default image's name, whatever -busybox made of it.
const Image = "debian-12"

// TakesLong leaves a test of several minutes to -long.
func TakesLong(t *testing.T) {
	t.Helper()
	if !*Long {
		t.Skip("left out: run it with -long")
	}
}

// Templated skips a test where there are no templates.
func Templated(t *testing.T) {
	t.Helper()
	if *Network != "user" || *Hypervisor == "uml" {
		t.Skipf("there are no templates on the network %q with %s", *Network, *Hypervisor)
	}
}

// TemplatedByQEMU skips a test of templates that knows QEMU's files or processes.
func TemplatedByQEMU(t *testing.T) {
	t.Helper()
	Templated(t)
	if *Hypervisor != "qemu" {
		t.Skip("of QEMU's templates")
	}
}

// Host is one private installation: its own directories, its own daemon.
type Host struct {
	Bin, State string
	Tar        string // what the default image was made of; "" when it was built
	Env        []string
	Netns      string        // run everything in this network namespace
	Creation   time.Duration // how long the first one took, of an installation apart
}

// Shared is the installation of all of a package's tests.
var Shared *Host

// Main is a package's TestMain: it makes Shared and takes it away again.
func Main(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		choose()
		if _, err := exec.LookPath("qemu-system-x86_64"); err != nil && *Hypervisor == "qemu" {
			fmt.Println("SKIP: no qemu-system-x86_64 here, so no VM can be run")
			return 0
		}
		dir, err := os.MkdirTemp("", "banger-vm-test")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if Shared, err = Install(dir); err != nil {
			fmt.Println(err)
			return 1
		}
		before := Shared.memory()
		status := m.Run()
		Shared.end()
		for _, file := range Shared.memory() {
			if !slices.Contains(before, file) {
				fmt.Println("FAIL: guest memory was left behind:", file)
				status = 1
			}
		}
		return status
	}())
}

// choose says what VMs run on, if nobody did.
func choose() {
	if *Hypervisor != "" {
		return
	}
	*Hypervisor = "uml"
	if r, err := kvm.Probe(context.Background()); err == nil && r.Verdict == kvm.Works {
		*Hypervisor = "qemu"
	}
	fmt.Println("VMs run on", *Hypervisor)
}

// Close ends the daemon; the next command starts another.
func (h *Host) Close() {
	h.Run(nil, "daemon", "stop")
}

// end ends what tests that failed have left running, too.
func (h *Host) end() {
	if left := strings.Fields(string(h.Run(nil, "vm", "list", "-q").Stdout)); len(left) > 0 {
		fmt.Println("left by tests:", left)
		h.Run(nil, append([]string{"vm", "delete"}, left...)...)
	}
	h.Close()
}

// With is the installation under another environment.
func (h *Host) With(env ...string) *Host {
	other := *h
	other.Env = append(slices.Clip(h.Env), env...)
	return &other
}

// Configured is the shared installation with a config.toml, and with it a daemon,
// of its own.
func Configured(t *testing.T, toml string) *Host {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(dir, "banger", "config.toml"), OnHypervisor()+ofSize(toml)+toml)
	Shared.Close()
	h := Shared.With("XDG_CONFIG_HOME=" + dir)
	t.Cleanup(h.Close) // the next test's daemon has its own settings again
	return h
}

// Result is what became of a command.
type Result struct {
	Stdout, Stderr []byte
	Status         int
}

// Command is a banger command of the installation.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append([]string{filepath.Join(h.Bin, "banger")}, args...)
	if h.Netns != "" {
		// ip-netns(8) gives it a new /sys, without the cgroups that a jail and a bound on
		// memory want: of version 1 where that has the memory.
		argv = append([]string{"ip", "netns", "exec", h.Netns, "sh", "-c", `{ mount -t cgroup -o memory none /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup; } 2>/dev/null; exec "$@"`, "sh"}, argv...)
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = h.Env
	return c
}

// Run runs one banger command to its end, four minutes at most.
func (h *Host) Run(stdin []byte, args ...string) Result {
	return h.Within(4*time.Minute, stdin, args...)
}

// Within is run for so long: then the command says where it hangs.
func (h *Host) Within(bound time.Duration, stdin []byte, args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), Patience(bound))
	defer cancel()
	c := h.Command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errs
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGABRT) } // the runtime prints all stacks
	c.WaitDelay = 10 * time.Second
	err := c.Run()
	r := Result{out.Bytes(), errs.Bytes(), 0}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.Status = exit.ExitCode()
	} else if err != nil {
		r.Status, r.Stderr = -1, []byte(err.Error())
	}
	return r
}

// OK runs a command that must succeed and returns what it printed.
func (h *Host) OK(t *testing.T, args ...string) string {
	t.Helper()
	r := h.Run(nil, args...)
	if r.Status != 0 {
		t.Fatalf("banger %s: status %d\n%s%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr)
	}
	return string(r.Stdout)
}

var serial atomic.Int32

// Serial is a number that this run has not seen before.
func Serial() int32 { return serial.Add(1) }

// NewVM creates a running VM that is gone when the test ends.
func (h *Host) NewVM(t *testing.T, args ...string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", Serial())
	h.OK(t, append([]string{"vm", "create", "--name", name}, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", h.Run(nil, "vm", "show", name).Stdout)
			logs := h.Run(nil, "vm", "logs", name).Stdout
			t.Logf("console: %s", logs[max(0, len(logs)-2000):])
		}
		if r := h.Run(nil, "vm", "delete", "--force", name); r.Status != 0 {
			t.Errorf("delete %s: %s", name, r.Stderr)
		}
	})
	return name
}

// Show returns what the daemon says of a VM.
func (h *Host) Show(t *testing.T, name string) banger.VM {
	t.Helper()
	vms, err := Results[banger.VM](h.OK(t, "vm", "show", "--json", name))
	if err != nil || len(vms) != 1 {
		t.Fatalf("%d VMs, %v", len(vms), err)
	}
	return vms[0]
}

// List returns what the daemon says of all VMs.
func (h *Host) List(t *testing.T) []banger.VM {
	t.Helper()
	vms, err := Results[banger.VM](h.OK(t, "vm", "list", "--json"))
	if err != nil {
		t.Fatal(err)
	}
	return vms
}

// Results reads what a command with --json printed. A build of before there was one
// shape, which an upgrade begins with, printed the result alone.
func Results[T any](text string) ([]T, error) {
	var doc struct {
		Results []T             `json:"results"`
		Errors  []*banger.Error `json:"errors"`
	}
	err := json.Unmarshal([]byte(text), &doc)
	if err == nil && doc.Results == nil {
		var alone T
		err = json.Unmarshal([]byte(text), &alone)
		return []T{alone}, err
	}
	for _, e := range doc.Errors {
		err = errors.Join(err, e)
	}
	return doc.Results, err
}

// Booted waits until the image's init has finished and returns what it then says.
// It lets systemctl do the waiting: asking again and again takes from a guest on a
// busy host the CPU that it needs to come up.
func (h *Host) Booted(t *testing.T, name string) (state string) {
	t.Helper()
	Until(t, "the end of systemd's start", 5*time.Minute, func() bool {
		state = strings.TrimSpace(string(h.Run(nil, "vm", "exec", name, "--", "systemctl", "is-system-running", "--wait").Stdout))
		return state == "running" || state == "degraded"
	})
	return state
}

// Daemon returns the daemon's pid, waiting for one to be there: the streams in
// flight start it again when it was killed.
func (h *Host) Daemon(t *testing.T) (pid int) {
	t.Helper()
	Until(t, "a daemon", time.Minute, func() bool {
		found, _ := Results[struct {
			PID int `json:"pid"`
		}](string(h.Run(nil, "daemon", "status", "--json").Stdout))
		if len(found) == 1 {
			pid = found[0].PID
		}
		return pid != 0 && Alive(pid)
	})
	return pid
}

// Patience is how long a hang is waited for. What the lab does, an emulated
// machine does, perhaps on a quarter of a processor.
func Patience(bound time.Duration) time.Duration {
	if os.Getenv("BANGER_LAB") != "" {
		return 3 * bound
	}
	return bound
}

// Until waits for a condition, looking again every 20 ms.
func Until(t *testing.T, what string, bound time.Duration, cond func() bool) {
	t.Helper()
	bound = Patience(bound)
	for end := time.Now().Add(bound); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, bound)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Alive reports whether there is such a process, a zombie too.
func Alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// Write makes a file.
func Write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Kill ends a process as nobody expects it to.
func Kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill %d: %v", pid, err)
	}
}

// IP is ip(8), which must succeed.
func IP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
