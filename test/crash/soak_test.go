package crash_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/test/vmtest"
)

var (
	soakDeaths = flag.Int("soak-deaths", 2, "how often the soak kills the VMM of a guest that writes")
	soakCell   = flag.String("soak-cell", "default", "what the soaked guest runs on, by emulation: default, inturn (two processors, one at a time) or parallel (two at once, whatever QEMU's version)")
	soakState  = flag.String("soak-state", "", "directory where the figures of several runs add up, and where the disk of a guest that lost something is kept")
	soakPlant  = flag.Bool("soak-plant", false, "zero two bytes that a guest had synced: the next one has to find them")
	soakSeed   = flag.Uint64("soak-seed", 0, "replay what the guests of this seed are told; 0: a new one")
)

// soakDirs are where the soaked guest works, and where that is on its disk: the first by a
// shell, as the storm's guests do, the last beside the overlay, on the file system itself.
var soakDirs = []struct{ guest, disk string }{
	{"/root/soak/shell", "upper/root/soak/shell"}, {"/root/soak/one", "upper/root/soak/one"},
	{"/root/soak/two", "upper/root/soak/two"}, {"/var/lib/docker/soak", "data/docker/soak"},
}

// soakLife is after how many deaths there is a new VM, whose disk is empty.
const soakLife = 20

// A guest writes and syncs files whose every byte is known, and reads them again, until
// its VMM is killed at a random moment. Started again, it reads all that was synced:
// from the disk, from memory, through a pipe, and from the disk again. Guests once read
// zeros there (docs/lab/verification.md).
func TestSoak(t *testing.T) {
	s := newSoak(t)
	defer s.report()
	for left := *soakDeaths; left > 0 && !t.Failed() && !s.found; left -= soakLife {
		s.life(min(left, soakLife))
	}
	if *soakPlant && !s.found {
		t.Error("the zeros that were planted are not found")
	}
}

// sums are what soaks of one cell come to, over all their runs.
type sums struct {
	Deaths  int   `json:"deaths"`
	Boots   int   `json:"boots"` // starts that were not from a template
	Starts  int   `json:"starts"`
	Synced  int   `json:"synced"` // things done to files whose sync was acknowledged
	Files   int   `json:"files"`  // read and right after a death, by all ways
	Bytes   int64 `json:"bytes"`
	Wrong   int   `json:"wrong"` // guests that read something else
	Seconds int   `json:"seconds"`
}

type soak struct {
	*testing.T
	h       *vmtest.Host
	rnd     *rand.Rand
	began   time.Time
	sum     sums
	file    string   // where the sums are kept; "": nowhere
	program string   // of the guest, for the host's own look at a disk
	machine []string // arguments that say what machine it is

	name string // of the VM
	dir  string // its directory
	seed uint64 // of what it is told
	done []int  // what is acknowledged, by directory

	found bool // what was planted
}

func newSoak(t *testing.T) *soak {
	if *vmtest.Hypervisor != "qemu" || os.Getenv("BANGER_LAB") != "" {
		t.Skip("QEMU's emulation on this host is what is soaked")
	}
	if !slices.Contains([]string{"default", "inturn", "parallel"}, *soakCell) {
		t.Fatalf("no cell %q: -soak-cell default, inturn or parallel", *soakCell)
	}
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -soak-cell %s -soak-seed %d", *soakCell, seed)
	dir := t.TempDir()
	s := &soak{T: t, h: vmtest.Shared, rnd: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), program: filepath.Join(dir, "soak")}
	s.load()
	s.machine = []string{"--memory", "256"}
	if *soakCell != "default" {
		s.machine = append(s.machine, "--vcpu", "2")
	}
	if *soakCell == "parallel" {
		s.parallel(dir)
	}
	s.image(dir)
	if *vmtest.Warm && *vmtest.Network == "user" {
		s.h.OK(t, append([]string{"template", "create", "-q"}, s.machine...)...)
	}
	return s
}

// image makes the image that is soaked: the storm's, with what is to run in it.
func (s *soak) image(dir string) {
	tar := filepath.Join(dir, "soak.tar")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", s.program, "banger/test/soak")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("build: %v: %s", err, out)
	}
	if err := errors.Join(vmtest.SmallTar(tar), os.MkdirAll(filepath.Join(dir, "var/lib"), 0o755)); err != nil {
		s.Fatal(err)
	}
	addTo(s.T, tar, dir, "soak", "bin/soak")
	s.tool("tar", "-rf", tar, "--owner=0", "--group=0", "-C", dir, "./var/lib")
	s.h.OK(s.T, "image", "import", "-q", "--name", "soak", tar)
}

// load reads what earlier runs saw, if that is kept.
func (s *soak) load() {
	if *soakState == "" {
		return
	}
	if err := os.MkdirAll(*soakState, 0o700); err != nil {
		s.Fatal(err)
	}
	s.file = filepath.Join(*soakState, *soakCell+".json")
	data, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(data, &s.sum)
	}
	if err != nil && !os.IsNotExist(err) {
		s.Fatal(err)
	}
	s.began = s.began.Add(-time.Duration(s.sum.Seconds) * time.Second)
}

// parallel has the driver take the host's QEMU for one of a later version, whose
// processors may run at once.
func (s *soak) parallel(dir string) {
	real, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		s.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		s.Fatal(err)
	}
	text := "#!/bin/sh\nif [ \"$1\" = -version ]; then echo QEMU emulator version 8.1.0; else exec " + real + " \"$@\"; fi\n"
	if err := os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte(text), 0o755); err != nil {
		s.Fatal(err)
	}
	s.h.Close() // the next daemon looks there
	s.h = s.h.With("PATH=" + bin + ":" + os.Getenv("PATH"))
	s.Cleanup(s.h.Close)
}

// life has one VM die so many times.
func (s *soak) life(deaths int) {
	s.name = fmt.Sprintf("soak%d", vmtest.Serial())
	s.seed, s.dir, s.done = s.rnd.Uint64(), "", make([]int, len(soakDirs))
	s.h.OK(s.T, append([]string{"vm", "create", "-q", "--no-start", "--name", s.name, "--image", "soak"}, s.machine...)...)
	defer func() { s.h.OK(s.T, "vm", "delete", s.name) }()
	for n := 0; n <= deaths && !s.Failed() && !s.found; n++ {
		vm := s.start()
		s.checkAccelerator(vm)
		s.readMarks()
		s.workUntilKilled(vm, n < deaths)
		s.save()
		if s.Failed() {
			s.keep()
		}
		if *soakPlant && n == deaths-1 {
			s.plant()
		}
	}
	if !s.found {
		s.checkDisk()
	}
}

// wrong is what a guest, or the host in its place, reads that wasn't written.
func (s *soak) wrong(format string, args ...any) {
	s.Helper()
	format = "%s after %d deaths in all: " + format
	args = append([]any{s.name, s.sum.Deaths}, args...)
	if *soakPlant {
		s.found = true
		s.Logf("planted, and found: "+format, args...)
		return
	}
	s.sum.Wrong++
	s.Errorf(format, args...)
}

// plant zeros what the shell of a guest that is dead has written last, behind its back.
func (s *soak) plant() {
	name := fmt.Sprintf("/%s/%d", soakDirs[0].disk, s.done[0])
	s.tool("sh", "-c", `e2fsck -fp "$1" || [ $? = 1 ]`, "sh", s.disk()) // replays the journal
	block, err := strconv.ParseInt(strings.Fields(s.tool("debugfs", "-R", "blocks "+name, s.disk()))[0], 10, 64)
	if err != nil {
		s.Fatal(err)
	}
	f, err := os.OpenFile(s.disk(), os.O_RDWR, 0)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 2), block<<12); err != nil {
		s.Fatal(err)
	}
}

// tool runs a program of the host's that must succeed, and returns what it prints.
func (s *soak) tool(argv ...string) string {
	s.Helper()
	var errs strings.Builder
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stderr = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin"), &errs
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("%v: %v: %s%s", argv, err, out, errs.String())
	}
	return string(out)
}

// start starts the VM, every fourth time by a boot, in which a kernel changes its own
// code most; else from a template, as it is by default.
func (s *soak) start() banger.VM {
	start := []string{"vm", "start", "-q", s.name}
	if s.rnd.IntN(4) == 0 {
		start = append(start, "--cold")
	}
	s.h.OK(s.T, start...)
	vm := s.h.Show(s.T, s.name)
	if s.dir == "" {
		s.dir = filepath.Dir(handlesFile(s.T, s.h, vm.ID))
	}
	s.sum.Starts++
	if vm.Launch == nil || vm.Launch.Template == "" {
		s.sum.Boots++
	}
	return vm
}

// checkAccelerator makes sure that the cell is what it is called.
func (s *soak) checkAccelerator(vm banger.VM) {
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", vm.Held.VMM.PID))
	if err != nil {
		s.Fatal(err)
	}
	args := strings.Split(string(argv), "\x00")
	accel, cpus := args[slices.Index(args, "-accel")+1], args[slices.Index(args, "-smp")+1]
	if strings.HasPrefix(accel, "kvm") {
		s.Skip("KVM works here: nothing is emulated")
	}
	inTurn := strings.Contains(accel, "thread=single")
	if *soakCell != "default" && (cpus != "2" || inTurn != (*soakCell == "inturn")) {
		s.Fatalf("QEMU here has no cell %s: it runs with -accel %s -smp %s", *soakCell, accel, cpus)
	}
	if s.sum.Deaths%soakLife == 0 {
		s.Logf("-accel %s -smp %s", accel, cpus)
	}
}

// workUntilKilled has the guest read what it had synced and go on writing, and kills its
// VMM at a random moment: a little after it has done so many things. The last one is let
// end by itself.
func (s *soak) workUntilKilled(vm banger.VM, kill bool) {
	args := []string{"vm", "exec", "-T", s.name, "--", "/bin/soak"}
	if *soakCell != "default" {
		args = append(args, "-trim=10")
	}
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Minute)
	defer cancel()
	cmd := s.h.Command(ctx, append(args, s.progress()...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	death := func() { _ = in.Close() } // the end of its input ends it
	if kill {
		death = func() { vmtest.Kill(s.T, vm.Held.VMM.PID) }
	}
	checked, left := false, 1+s.rnd.IntN(40)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var dir, n, files int
		var bytes int64
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "wrong"):
			s.wrong("%s", line)
			left = -1 // it is to be looked at
			_ = in.Close()
		case scan(line, "done %d %d", &dir, &n) && n == s.done[dir]+1:
			s.done[dir]++
			s.sum.Synced++
			_, _ = fmt.Fprintln(in, dir) // it may have died
			if left--; left == 0 {
				time.AfterFunc(time.Duration(s.rnd.IntN(50))*time.Millisecond, death)
			}
		case scan(line, "checked %d %d", &files, &bytes):
			s.sum.Files, s.sum.Bytes, checked = s.sum.Files+files, s.sum.Bytes+bytes, true
		default:
			s.Errorf("the guest says %q", line)
		}
	}
	err = cmd.Wait() // it fails when the VMM was killed
	switch {
	case s.found:
	case !checked || ctx.Err() != nil || !kill && err != nil:
		s.Errorf("the guest's work ended: checked %v, %v, %v: %s", checked, ctx.Err(), err, errs.String())
	case kill && !s.Failed():
		s.sum.Deaths++
		vmtest.Until(s.T, "the death to be noticed", time.Minute, func() bool { return s.h.Show(s.T, s.name).State == banger.Stopped })
	}
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// progress are the arguments that say what is acknowledged.
func (s *soak) progress() (args []string) {
	args = append(args, fmt.Sprintf("-seed=%d", s.seed))
	for i, dir := range soakDirs {
		args = append(args, fmt.Sprintf("%s=%d", dir.guest, s.done[i]))
	}
	return args
}

// readMarks reads what the shell wrote as the storm does, through all that is between
// guest and user.
func (s *soak) readMarks() {
	read, want := "cd "+soakDirs[0].guest+" && cat", ""
	for n := max(1, s.done[0]-10); n <= s.done[0]; n++ {
		read, want = fmt.Sprint(read, " ", n), want+fmt.Sprintln(n)
	}
	if want == "" {
		return
	}
	if got := s.h.OK(s.T, "vm", "exec", s.name, "--", "sh", "-c", read); got != want {
		s.wrong("%s says %q, want %q", read, got, want)
	}
}

// save adds what was seen to what other runs saw.
func (s *soak) save() {
	s.sum.Seconds = int(time.Since(s.began).Seconds())
	if s.file == "" {
		return
	}
	data, err := json.Marshal(s.sum)
	if err == nil {
		err = errors.Join(os.WriteFile(s.file+".new", data, 0o600), os.Rename(s.file+".new", s.file))
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s *soak) report() { s.Logf("cell %s, all its runs: %+v", *soakCell, s.sum) }

func (s *soak) disk() string { return filepath.Join(s.dir, "disk.ext4") }

// keep puts what tells wrong files from a guest that reads them wrong where it stays:
// the disk as it is, and what the guest reads by then.
func (s *soak) keep() {
	if *soakState == "" {
		return
	}
	kept := filepath.Join(*soakState, fmt.Sprintf("wrong-%s-%d", *soakCell, s.seed))
	if out, err := exec.Command("cp", "--sparse=always", s.disk(), kept).CombinedOutput(); err != nil {
		s.Errorf("keep the disk: %v: %s", err, out)
	}
	s.Logf("its disk: %s, the guest's arguments: %v", kept, s.progress())
	for _, argv := range [][]string{
		append([]string{"exec", s.name, "--", "/bin/soak", "-check"}, s.progress()...),
		{"exec", s.name, "--", "dmesg"},
		{"restart", s.name},
		append([]string{"exec", s.name, "--", "/bin/soak", "-check"}, s.progress()...),
	} {
		r := s.h.Run(nil, append([]string{"vm"}, argv...)...)
		s.Logf("%v: %s%s", argv, r.Stdout[max(0, len(r.Stdout)-8000):], r.Stderr)
	}
}

// checkDisk has the host read the files of a VM whose VMM is killed, on a copy of its disk
// whose journal is replayed.
func (s *soak) checkDisk() {
	s.h.OK(s.T, "vm", "stop", "--force", s.name)
	dir := s.TempDir()
	disk, root := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	s.tool("mkdir", root)
	s.tool("cp", "--sparse=always", s.disk(), disk)
	s.tool("sh", "-c", `e2fsck -fp "$1" || [ $? = 1 ]`, "sh", disk)
	s.tool("debugfs", "-R", "rdump / "+root, disk)
	args := []string{"-check", fmt.Sprintf("-seed=%d", s.seed)}
	for i, dir := range soakDirs {
		args = append(args, fmt.Sprintf("%s=%d", filepath.Join(root, dir.disk), s.done[i]))
	}
	out, err := exec.Command(s.program, args...).CombinedOutput()
	if err != nil {
		s.wrong("on the disk itself: %v: %s", err, out)
	}
}
