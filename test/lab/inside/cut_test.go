package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

// recordFile is where one boot of the lab tells the next what a user would know. It
// isn't on the disk that the power cuts take writes from: to make it durable would make
// more durable there.
var recordFile = filepath.Join(os.Getenv("BANGER_LAB"), "record.json")

type record struct {
	Doing    string                       // the operation that may have been cut
	Answered bool                         // and that was acknowledged before
	Files    map[string]map[string]string // by VM, the sums of files whose sync was acknowledged
	Stopped  map[string]string            // those of files that "made" has once its stop is acknowledged
	Took     map[string]time.Duration     // by operation
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
	cached(t, "the lab's root", "cat", "/sys/block/vda/queue/write_cache")
	if out, err := exec.Command("findmnt", "-no", "OPTIONS", "/").Output(); err != nil || !bytes.Contains(out, []byte("noauto_da_alloc")) {
		t.Fatalf("the lab's root is mounted with %s, %v: it would write files that nobody syncs", out, err)
	}
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
	op := parameter(t, "lab.op=")
	if parameter(t, "lab.eager=") == "true" {
		eager(t)
	}
	if op == "" {
		u.banger("vm", "delete", "kept")
		u.nothingHeld(nil)
		return
	}
	u.once(op)
	time.Sleep(time.Minute) // the power goes within a second
	t.Fatal("the power was never cut")
}

// cached checks that a kernel knows of a disk's write cache, so that it flushes it.
func cached(t *testing.T, whose string, argv ...string) {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	for _, cache := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if err != nil || cache != "write back" {
			t.Errorf("the kernel takes the cache of %s disk for %q: %v", whose, out, err)
		}
	}
}

// parameter is what the host asks for on the kernel's command line.
func parameter(t *testing.T, key string) string {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(word, key); ok {
			return value
		}
	}
	return ""
}

// eager has the kernel write to disk within a second what nobody syncs, where the
// power cut may lose any of it. It keeps that in memory for half a minute otherwise, and
// the power cut loses all of it.
func eager(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{"dirty_expire_centisecs": "20", "dirty_writeback_centisecs": "10"} {
		if err := os.WriteFile("/proc/sys/vm/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// hypervisor is what VMs run on; with none named it would be whatever lies there.
var hypervisor = flag.String("hypervisor", "qemu", "what VMs run on: qemu or firecracker")

// settings have VMs hold all that a host can have for them.
func settings() string {
	s := fmt.Sprintf("memory_mib = 1024\nnet = \"bridge\"\ndisk_driver = \"dm-snapshot\"\nhypervisor = %q\nboot_deadline = \"3m\"\n", *hypervisor)
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

// once brings "made" to where op begins, tells the host, and does it. What follows
// an acknowledgement syncs nothing more.
func (u *user) once(op string) {
	u.Helper()
	create := []string{"vm", "create", "--name", "made", "--image", "small", "--memory", "256"}
	var tar string
	switch op {
	case "start":
		u.banger(append(create, "--no-start")...)
	case "stop", "delete":
		u.banger(create...)
		u.write("made")
	case "import":
		tar = rootTar(u.T)
	}
	u.write("kept")
	if op == "stop" { // its guest syncs what it has when it is asked to stop
		u.Stopped = map[string]string{}
		u.Stopped["/root/stopped"] = u.make("made", "/root/stopped", "true")
	}
	u.Doing = op
	u.save()
	took, known := u.Took[op]
	if !known { // a start is most of a creation; of the others it is a guess, and LAB-END says when it was too long
		took = u.Took["create"] / map[string]time.Duration{"start": 1, "stop": 8, "delete": 20, "import": 20, "sync": 20}[op]
	}
	fmt.Printf("LAB-BEGIN %s %d\n", op, took.Milliseconds())
	switch op {
	case "create":
		u.timed(op, create...)
	case "import":
		u.timed(op, "image", "import", "-q", "--name", "other", tar)
	case "sync":
		u.write("kept")
	default:
		u.timed(op, "vm", op, "made")
	}
	u.Answered = true
	u.save()
	fmt.Println("LAB-END")
}

func (u *user) timed(op string, args ...string) {
	u.Helper()
	began := time.Now()
	u.banger(args...)
	u.Took[op] = time.Since(began)
	u.Logf("%s took %v", op, u.Took[op])
}

// recovered checks that the daemon of this boot ends what was begun, has what was
// acknowledged, holds nothing that no VM owns, and has every file whose sync was
// acknowledged.
func (u *user) recovered() {
	u.Helper()
	states := u.rest()
	u.Logf("after %q, answered %v: %v", u.Doing, u.Answered, states)
	if states["kept"] != banger.Stopped {
		u.Errorf("the VM that ran through it is %q, want stopped", states["kept"])
	}
	state, there := states["made"]
	if there && state != banger.Stopped {
		u.Errorf("the VM in the middle of %s is %q", u.Doing, state)
	}
	lasts := u.Doing == "start" || u.Doing == "stop" || u.Doing == "create" && u.Answered
	if !there && lasts {
		u.Errorf("the VM is gone after %s", u.Doing)
	}
	if there && u.Doing == "delete" && u.Answered {
		u.Errorf("the VM that was deleted is there")
	}
	u.nothingHeld(states)
	u.imagesWhole()
	if u.Failed() {
		u.FailNow()
	}
	if u.Doing == "stop" && u.Answered {
		maps.Copy(u.Files["made"], u.Stopped)
	}
	for name := range states {
		u.banger("vm", "start", name)
		u.filesWhole(name)
	}
	if there {
		u.banger("vm", "delete", "made")
	}
	delete(u.Files, "made")
	u.Doing, u.Answered = "", false
	u.save()
	if u.Failed() {
		u.FailNow()
	}
}

// filesWhole checks what a guest had synced.
func (u *user) filesWhole(name string) {
	u.Helper()
	cached(u.T, "the guest's", "banger", "vm", "exec", name, "--", "sh", "-c", "cat /sys/block/vd*/queue/write_cache")
	got := map[string]string{}
	for line := range strings.Lines(u.banger("vm", "exec", name, "--", "sh", "-c", "sha256sum /root/* || true")) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		got[file] = sum
	}
	for file, sum := range u.Files[name] {
		if got[file] != sum {
			u.Errorf("%s: %s has the sum %q, and was synced with %s", name, file, got[file], sum)
		}
	}
	u.Logf("%s: %d files that were synced", name, len(u.Files[name]))
}

// imagesWhole checks that an image is there when its import was acknowledged, and
// that each has a file with the contents that its id was made of. There is no other file.
func (u *user) imagesWhole() {
	u.Helper()
	images, err := results[banger.Image](u.banger("image", "list", "--json"))
	if err != nil {
		u.Fatal(err)
	}
	dir := filepath.Join(os.Getenv("HOME"), ".local/share/banger/images")
	if files, err := filepath.Glob(filepath.Join(dir, "[^.]*")); err != nil || len(files) != len(images) {
		u.Errorf("%d images have the files %v, %v", len(images), files, err)
	}
	if temps, err := filepath.Glob(filepath.Join(dir, ".import-*")); err != nil || len(temps) > 0 {
		u.Errorf("of an import there is left: %v, %v", temps, err)
	}
	other := false
	for _, img := range images {
		out, err := exec.Command("sh", "-c", "sha256sum "+filepath.Join(dir, img.ID)+"*").CombinedOutput()
		if err != nil || !bytes.HasPrefix(out, []byte(img.ID)) {
			u.Errorf("the file of image %s has the sum %s, its id is %s: %v", img.Name, out, img.ID, err)
		}
		other = other || img.Name == "other"
	}
	if !other && u.Doing == "import" && u.Answered {
		u.Errorf("the image that was imported is gone")
	}
	if other {
		u.banger("image", "delete", "other")
	}
}

// write has a guest sync a file, and remembers it once the guest said so.
func (u *user) write(name string) {
	u.Helper()
	if u.Files[name] == nil {
		u.Files[name] = map[string]string{}
	}
	file := fmt.Sprintf("/root/%d", len(u.Files[name]))
	u.Files[name][file] = u.make(name, file, "sync")
	u.save()
}

// make has a guest make a file, and then do something. It returns its sum.
func (u *user) make(name, file, then string) (sum string) {
	u.Helper()
	out := u.banger("vm", "exec", name, "--", "sh", "-c", "head -c 300000 /dev/urandom >"+file+" && "+then+" && sha256sum "+file)
	sum, _, _ = strings.Cut(out, " ")
	return sum
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
		vms, err := results[banger.VM](u.banger("vm", "list", "--json"))
		if err != nil {
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
	found, err := results[banger.Found](u.banger("system", "gc", "--dry-run", "--json"))
	if err != nil {
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
head -c 1000 /dev/urandom >etc/unlike-others
for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
tar -cf "$2" .`, "sh", dir, tar).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tar
}
