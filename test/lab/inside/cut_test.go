package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

// recordFile is where one boot of the lab tells the next what a user would know.
var recordFile = filepath.Join(os.Getenv("HOME"), "record.json")

type record struct {
	Doing string                       // the operation on "made" that may have been cut
	Files map[string]map[string]string // by VM, the sums of files whose sync was acknowledged
	Took  map[string]time.Duration     // by operation
}

// user is root with banger's defaults.
type user struct {
	*testing.T
	record
}

// TestPowerCut looks at what the power cut before this boot left, then does one
// operation again and again, saying when it begins, until the power is cut.
func TestPowerCut(t *testing.T) {
	inLab(t)
	u := &user{T: t, record: record{Files: map[string]map[string]string{}, Took: map[string]time.Duration{}}}
	data, err := os.ReadFile(recordFile)
	switch {
	case os.IsNotExist(err):
		u.install()
	case err != nil:
		t.Fatal(err)
	default:
		if err := json.Unmarshal(data, &u.record); err != nil {
			t.Fatal(err)
		}
		u.recovered()
	}
	op := operation(t)
	if op == "" {
		u.banger("vm", "delete", "kept")
		u.nothingHeld(nil)
		return
	}
	for range 20 {
		u.once(op)
	}
	t.Fatal("the power was never cut")
}

// operation is what the host asks for on the kernel's command line.
func operation(t *testing.T) string {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	_, op, _ := strings.Cut(string(line), "lab.op=")
	op, _, _ = strings.Cut(strings.TrimSpace(op), " ")
	return op
}

// hypervisor is what VMs run on; with none named it would be whatever lies there.
var hypervisor = flag.String("hypervisor", "qemu", "what VMs run on: qemu or firecracker")

// settings have VMs hold all that a host can have for them.
func settings() string {
	s := fmt.Sprintf("net = \"bridge\"\ndisk_driver = \"dm-snapshot\"\nhypervisor = %q\nboot_deadline = \"3m\"\n", *hypervisor)
	if *hypervisor == "firecracker" {
		s += fmt.Sprintf("firecracker = %q\n", os.Getenv("BANGER_FIRECRACKER"))
	}
	return s
}

// install gives root's banger a kernel, an image and a VM that runs through
// everything that is done to another one.
func (u *user) install() {
	u.Helper()
	home := os.Getenv("HOME")
	data, conf := filepath.Join(home, ".local/share/banger"), filepath.Join(home, ".config/banger")
	for _, dir := range []string{data, conf} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			u.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(conf, "config.toml"), []byte(settings()), 0o600); err != nil {
		u.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(os.Getenv("BANGER_LAB"), "cache/banger-test/kernels"), data+"/kernels"); err != nil {
		u.Fatal(err)
	}
	u.banger("kernel", "pull", "-q")
	u.banger("image", "import", "-q", "--name", "small", rootTar(u.T))
	u.timed("create", "vm", "create", "--name", "kept", "--image", "small", "--memory", "256")
	u.write("kept")
}

// once brings "made" to where op begins, tells the host, and does it.
func (u *user) once(op string) {
	u.Helper()
	create := []string{"vm", "create", "--name", "made", "--image", "small", "--memory", "256"}
	does := map[string][]string{"create": create, "start": {"vm", "start", "made"}, "stop": {"vm", "stop", "made"}, "delete": {"vm", "delete", "made"}}[op]
	switch op {
	case "start":
		u.banger(append(create, "--no-start")...)
	case "stop", "delete":
		u.banger(create...)
		u.write("made")
	}
	u.write("kept")
	u.Doing = op
	u.save()
	took, known := u.Took[op]
	if !known { // a start is most of a creation; of the others it is a guess, and LAB-END says when it was too long
		took = u.Took["create"] / map[string]time.Duration{"start": 1, "stop": 8, "delete": 20}[op]
	}
	fmt.Printf("LAB-BEGIN %s %d\n", op, took.Milliseconds())
	u.timed(op, does...)
	fmt.Println("LAB-END")
	u.Doing = ""
	delete(u.Files, "made")
	u.save()
	if op != "delete" {
		u.banger("vm", "delete", "made")
	}
}

func (u *user) timed(op string, args ...string) {
	u.Helper()
	began := time.Now()
	u.banger(args...)
	u.Took[op] = time.Since(began)
	u.Logf("%s took %v", op, u.Took[op])
}

// recovered checks that the daemon of this boot ends what was begun, holds
// nothing that no VM owns, and has every file whose sync was acknowledged.
func (u *user) recovered() {
	u.Helper()
	states := u.rest()
	u.Logf("after %q: %v", u.Doing, states)
	if states["kept"] != banger.Stopped {
		u.Errorf("the VM that ran through it is %q, want stopped", states["kept"])
	}
	state, there := states["made"]
	if there && state != banger.Stopped {
		u.Errorf("the VM in the middle of %s is %q", u.Doing, state)
	}
	if !there && (u.Doing == "start" || u.Doing == "stop") {
		u.Errorf("the VM in the middle of %s is gone", u.Doing)
	}
	u.nothingHeld(states)
	for name := range states {
		u.banger("vm", "start", name)
		for file, sum := range u.Files[name] {
			if got, _, _ := strings.Cut(u.banger("vm", "exec", name, "--", "sha256sum", file), " "); got != sum {
				u.Errorf("%s: %s has the sum %s, and was synced with %s", name, file, got, sum)
			}
		}
		u.Logf("%s: %d synced files intact", name, len(u.Files[name]))
	}
	if there {
		u.banger("vm", "delete", "made")
	}
	delete(u.Files, "made")
	u.Doing = ""
	u.save()
	if u.Failed() {
		u.FailNow()
	}
}

// write has a guest sync a file, and remembers it once the guest said so.
func (u *user) write(name string) {
	u.Helper()
	if u.Files[name] == nil {
		u.Files[name] = map[string]string{}
	}
	file := fmt.Sprintf("/root/%d", len(u.Files[name]))
	out := u.banger("vm", "exec", name, "--", "sh", "-c", "head -c 300000 /dev/urandom >"+file+" && sync && sha256sum "+file)
	u.Files[name][file], _, _ = strings.Cut(out, " ")
	u.save()
}

// save makes the record durable.
func (u *user) save() {
	u.Helper()
	data, err := json.Marshal(u.record)
	if err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(recordFile+".new", data, 0o600); err != nil {
		u.Fatal(err)
	}
	if err := os.Rename(recordFile+".new", recordFile); err != nil {
		u.Fatal(err)
	}
	if out, err := exec.Command("sync", "-f", recordFile).CombinedOutput(); err != nil {
		u.Fatalf("sync: %v: %s", err, out)
	}
}

// rest starts the daemon and waits until no VM is in the middle of anything.
func (u *user) rest() (states map[string]banger.State) {
	u.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var vms []banger.VM
		if err := json.Unmarshal([]byte(u.banger("vm", "list", "--json")), &vms); err != nil {
			u.Fatal(err)
		}
		states, busy := map[string]banger.State{}, false
		for _, vm := range vms {
			states[vm.Spec.Name] = vm.State
			busy = busy || vm.State != banger.Running && vm.State != banger.Stopped
		}
		if !busy {
			return states
		}
		if time.Now().After(end) {
			u.Fatalf("no rest: %v", states)
		}
	}
}

// nothingHeld looks for kernel objects, processes and directories that no VM
// owns. All VMs are stopped, so none of the first two may be there at all, but for
// the bridge and its tables, which stay until the next boot.
func (u *user) nothingHeld(states map[string]banger.State) {
	u.Helper()
	var found []struct{ Claim, Kind, Name string }
	if err := json.Unmarshal([]byte(u.banger("system", "gc", "--dry-run", "--json")), &found); err != nil {
		u.Fatal(err)
	}
	for _, f := range found {
		if f.Claim == "orphaned" {
			u.Errorf("gc finds an orphan: %+v", f)
		}
	}
	dirs, err := os.ReadDir(filepath.Join(os.Getenv("HOME"), ".local/state/banger/vms"))
	if err != nil && !os.IsNotExist(err) || len(dirs) != len(states) {
		u.Errorf("%d directories of %d VMs: %v, %v", len(dirs), len(states), dirs, err)
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is well-formed
	for _, path := range exes {
		exe, _ := os.Readlink(path) // "" when it has ended
		switch strings.TrimSuffix(filepath.Base(exe), " (deleted)") {
		case "banger-shim", "qemu-system-x86_64", "firecracker", "jailer":
			u.Errorf("a process that nobody owns: %s is %s", path, exe)
		}
	}
	for what, argv := range map[string][]string{
		"device-mapper nodes": {"sh", "-c", "dmsetup ls | grep -v 'No devices found'"},
		"loop devices":        {"losetup", "-l", "-n"},
		"network devices":     {"sh", "-c", "ip -o link | grep -vE '^[0-9]+: (lo|e[nt][a-z0-9]+|banger0):'"},
		"firewall tables":     {"sh", "-c", "nft list tables | grep -v ' banger0$'"},
		"mounts":              {"grep", "banger", "/proc/mounts"},
		"cgroups":             {"find", "/sys/fs/cgroup", "-name", "*banger*"},
		"chroots":             {"sh", "-c", "ls -d /srv/jailer/*/* 2>/dev/null"},
		"guests' memory":      {"find", "/dev/shm", "-type", "f"},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended { // grep's and find's own status says nothing here
			u.Errorf("%s: %v", what, err)
		}
		if len(bytes.TrimSpace(out)) > 0 {
			u.Errorf("%s that nobody owns:\n%s", what, out)
		}
	}
}

// banger runs one command that must succeed.
func (u *user) banger(args ...string) string {
	u.Helper()
	cmd := exec.Command("banger", args...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME=", "TMPDIR=")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		u.Fatalf("banger %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// rootTar makes a small root file system: busybox with all its names.
func rootTar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tar := filepath.Join(t.TempDir(), "root.tar")
	out, err := exec.Command("sh", "-ec", `cd "$1"
mkdir bin dev etc proc root run sys tmp var
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
cp /bin/busybox bin/
for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
tar -cf "$2" .`, "sh", dir, tar).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tar
}
