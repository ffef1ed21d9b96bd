package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/test/fake"
)

func (d *daemon) make(t testing.TB, spec banger.Spec) banger.VM {
	t.Helper()
	vm, err := d.CreateVM(t.Context(), spec, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func wantCode(t testing.TB, err error, want banger.Code) {
	t.Helper()
	if got := banger.CodeOf(err); got != want {
		t.Errorf("got %v (code %q), want code %q", err, got, want)
	}
}

func begun(t testing.TB) (*world, *daemon) {
	t.Helper()
	w := newWorld(t)
	d := w.open(nil)
	t.Cleanup(d.kill)
	return w, d
}

func TestLife(t *testing.T) {
	w, d := begun(t)
	var stages []string
	vm, err := d.CreateVM(t.Context(), banger.Spec{}, true, func(e banger.Event) { stages = append(stages, e.Stage) })
	if err != nil {
		t.Fatal(err)
	}
	if vm.State != banger.Running || vm.Boots != 1 || vm.Started.IsZero() || vm.Spec.VCPU != 1 || vm.Spec.Net != banger.NetBridge {
		t.Errorf("created: %+v", vm)
	}
	if got := strings.Join(stages, " "); got != "spec directory disk attach network vmm agent" {
		t.Errorf("stages: %s", got)
	}
	for _, ref := range []string{vm.ID, vm.ID[:11], vm.Spec.Name} {
		if got, err := d.VM(t.Context(), ref); err != nil || got.ID != vm.ID {
			t.Errorf("by %q: %v, %v", ref, got.ID, err)
		}
	}
	if again, err := d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil); err != nil || again.Boots != 1 {
		t.Errorf("starting a running VM: %+v, %v", again, err)
	}
	for range 2 {
		got, err := d.StopVM(t.Context(), vm.ID, banger.StopOptions{})
		if err != nil || got.State != banger.Stopped || got.Exit == nil || got.Exit.Kind != banger.ExitPoweroff || got.Reason != "guest powered off" {
			t.Errorf("stopped: %+v, %v", got, err)
		}
	}
	_, err = d.Dial(t.Context(), vm.ID)
	wantCode(t, err, banger.CodeNotRunning)
	if e, ok := errors.AsType[*banger.Error](err); !ok || !strings.Contains(e.Hint, "vm start "+vm.Spec.Name) {
		t.Errorf("the hint doesn't say what to do: %+v", err)
	}
	if got, err := d.StartVM(t.Context(), vm.Spec.Name, banger.StartOptions{}, nil); err != nil || got.State != banger.Running || got.Boots != 2 || got.Exit != nil {
		t.Errorf("started again: %+v, %v", got, err)
	}
	report(t, w.check(d), "running")
	if err := d.DeleteVM(t.Context(), vm.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.DeleteVM(t.Context(), vm.ID), banger.CodeNotFound)
	report(t, w.check(d), "deleted")
}

func TestRefsThatAreAmbiguousOrUnknown(t *testing.T) {
	_, d := begun(t)
	a, b := d.make(t, banger.Spec{Name: "a"}), d.make(t, banger.Spec{Name: a12})
	_, err := d.VM(t.Context(), "0000")
	wantCode(t, err, banger.CodeConflict)
	_, err = d.VM(t.Context(), a.ID[:3])
	wantCode(t, err, banger.CodeNotFound)
	if got, err := d.VM(t.Context(), a12); err != nil || got.ID != b.ID {
		t.Errorf("a name that looks like a prefix: %v, %v", got.ID, err)
	}
	_, err = d.CreateVM(t.Context(), banger.Spec{Name: "a"}, false, nil)
	wantCode(t, err, banger.CodeConflict)
}

const a12 = "00000000"

// What a daemon that was root made on the host stays until one that may removes it.
func TestNetworkOfAnotherDaemon(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{Name: "a"})
	if _, err := d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.host.String(), "tap") {
		t.Fatalf("no TAP:\n%s", w.host)
	}
	d.kill()
	w.plain = true
	d = w.open(nil)
	err := d.DeleteVM(t.Context(), vm.ID)
	if wantCode(t, err, banger.CodeUnavailable); !strings.Contains(err.Error(), "can't be removed by this daemon") {
		t.Error(err)
	}
	_, err = d.CreateVM(t.Context(), banger.Spec{Name: "b", Net: banger.NetBridge}, true, nil)
	if wantCode(t, err, banger.CodeInvalid); !strings.Contains(err.Error(), `"bridge" isn't available to this daemon`) {
		t.Error(err)
	}
	d.kill()
	w.plain = false
	d = w.open(nil)
	if vms, err := d.VMs(t.Context()); err != nil || len(vms) > 0 || strings.Contains(w.host.String(), "tap") {
		t.Errorf("%+v, %v\n%s", vms, err, w.host)
	}
}

func TestSpecsThatAreRefused(t *testing.T) {
	w, d := begun(t)
	d.MemoryMiB = func() int { return 4096 }
	for _, c := range []struct {
		spec banger.Spec
		code banger.Code
	}{
		{banger.Spec{VCPU: -1}, banger.CodeInvalid},
		{banger.Spec{VCPU: banger.MaxVCPU + 1}, banger.CodeInvalid},
		{banger.Spec{MemoryMiB: 127}, banger.CodeInvalid},
		{banger.Spec{MemoryMiB: -1 << 62}, banger.CodeInvalid},
		{banger.Spec{MemoryMiB: 4097}, banger.CodeUnavailable},
		{banger.Spec{DiskMiB: 63}, banger.CodeInvalid},
		{banger.Spec{DiskMiB: banger.MaxDiskMiB + 1}, banger.CodeInvalid},
		{banger.Spec{Name: "Upper"}, banger.CodeInvalid},
		{banger.Spec{Name: "-x"}, banger.CodeInvalid},
		{banger.Spec{Name: "x-"}, banger.CodeInvalid},
		{banger.Spec{Name: "a.b"}, banger.CodeInvalid},
		{banger.Spec{Name: "../../etc"}, banger.CodeInvalid},
		{banger.Spec{Name: strings.Repeat("a", 64)}, banger.CodeInvalid},
		{banger.Spec{DiskDriver: "floppy"}, banger.CodeInvalid},
		{banger.Spec{Net: "carrier pigeon"}, banger.CodeInvalid},
		{banger.Spec{Hypervisor: "xen"}, banger.CodeInvalid},
		{banger.Spec{Limits: banger.Limits{DiskOps: -1}}, banger.CodeInvalid},
		{banger.Spec{Workspace: "rel"}, banger.CodeInvalid},
		{banger.Spec{Image: "nope"}, banger.CodeNotFound},
		{banger.Spec{Isolation: "none"}, banger.CodeInvalid},
		{banger.Spec{Kernel: "uml"}, banger.CodeInvalid}, // a kernel for another hypervisor
	} {
		_, err := d.CreateVM(t.Context(), c.spec, true, nil)
		if got := banger.CodeOf(err); got != c.code {
			t.Errorf("%+v: got %v (code %q), want code %q", c.spec, err, got, c.code)
		}
	}
	if vms, _ := d.VMs(t.Context()); len(vms) != 0 {
		t.Errorf("a refused spec left %+v", vms)
	}
	report(t, w.check(d), "refused specs")
}

// told notes what a hypervisor is told of machines that it starts.
type told struct {
	banger.Hypervisor
	machines *[]banger.Machine
}

func (h told) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	*h.machines = append(*h.machines, m)
	return h.Hypervisor.Start(ctx, m)
}

// Whether a VM's VMM may do without its sandbox is the VM's own: no other may.
func TestInsecureIsToldOfOneVM(t *testing.T) {
	w := newWorld(t)
	var machines []banger.Machine
	w.sabotage.host = func(_ *world, h banger.Hypervisor) banger.Hypervisor { return told{h, &machines} }
	d := w.open(nil)
	for _, insecure := range []bool{true, false} {
		vm, err := d.CreateVM(t.Context(), banger.Spec{Insecure: insecure}, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m := machines[len(machines)-1]; m.ID != vm.ID || m.Insecure != insecure {
			t.Errorf("of a VM with insecure %v the hypervisor was told %+v", insecure, m)
		}
	}
}

// A client that leaves while its VM boots leaves nothing of it.
func TestClientLeavesDuringCreate(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.host.Agent = func(g *fake.Guest) { cancel() } // never answers
	d := w.open(nil)
	defer d.kill()
	_, err := d.CreateVM(ctx, banger.Spec{}, true, nil)
	wantCode(t, err, banger.CodeCanceled)
	report(t, w.check(d), "after the client left")
	if vms, _ := d.VMs(t.Context()); len(vms) != 0 {
		t.Errorf("left: %+v", vms)
	}
}

// DeleteVM needn't wait for a boot that may take a minute.
func TestDeleteDuringCreate(t *testing.T) {
	w := newWorld(t)
	booting := make(chan struct{})
	var once sync.Once
	w.host.Agent = func(g *fake.Guest) { once.Do(func() { close(booting) }) }
	w.defaults.Boot = time.Hour
	d := w.open(nil)
	defer d.kill()
	created := make(chan error, 1)
	go func() {
		_, err := d.CreateVM(t.Context(), banger.Spec{Name: "it"}, true, nil)
		created <- err
	}()
	<-booting
	if err := d.DeleteVM(t.Context(), "it"); err != nil {
		t.Error(err)
	}
	wantCode(t, <-created, banger.CodeCanceled)
	report(t, w.check(d), "after both")
}

// A guest that never answers is booted once more, and only once.
func TestBootIsTriedTwice(t *testing.T) {
	for deaf, ok := range map[int]bool{1: true, 2: false} {
		w := newWorld(t)
		w.defaults.Boot = 50 * time.Millisecond
		var mu sync.Mutex
		boots := map[banger.Process]bool{}
		w.host.Agent = func(g *fake.Guest) {
			mu.Lock()
			boots[g.VMM()] = true
			n := len(boots)
			mu.Unlock()
			if n > deaf {
				g.Serve()
			}
		}
		d := w.open(nil)
		vm, err := d.CreateVM(t.Context(), banger.Spec{}, true, nil)
		if ok && (err != nil || vm.Boots != 2) {
			t.Errorf("%d deaf boots: %+v, %v", deaf, vm, err)
		}
		if !ok {
			wantCode(t, err, banger.CodeTimeout)
		}
		mu.Lock()
		if len(boots) != 2 {
			t.Errorf("%d boots", len(boots))
		}
		mu.Unlock()
		report(t, w.check(d), "%d deaf boots", deaf)
		d.kill()
	}
}

// A guest that ends while it boots is told as what it was, without waiting for
// the boot deadline.
func TestGuestDiesDuringBoot(t *testing.T) {
	w := newWorld(t)
	w.defaults.Boot = time.Hour
	w.host.Agent = func(g *fake.Guest) {
		w.host.EndGuest(g.ID(), banger.Exit{Kind: banger.ExitPanic, Detail: "VFS: unable to mount root"})
	}
	d := w.open(nil)
	defer d.kill()
	_, err := d.CreateVM(t.Context(), banger.Spec{}, true, nil)
	if err == nil || !strings.Contains(err.Error(), "kernel panic: VFS: unable to mount root") {
		t.Errorf("got %v", err)
	}
	report(t, w.check(d), "after the panic")
}

func TestGuestEndsByItself(t *testing.T) {
	for kind, reason := range map[banger.ExitKind]string{
		banger.ExitPoweroff: "guest powered off: x",
		banger.ExitPanic:    "kernel panic: x",
		banger.ExitHalt:     "guest halted: x",
		banger.ExitKilled:   "killed: x",
		banger.ExitFailed:   "hypervisor failed: x",
		banger.ExitUnknown:  "ended unseen: x",
	} {
		for _, dead := range []bool{false, true} {
			w, d := begun(t)
			vm := d.make(t, banger.Spec{})
			if dead {
				d.kill()
			}
			w.host.EndGuest(vm.ID, banger.Exit{Kind: kind, Detail: "x"})
			if dead {
				d = w.open(nil)
			}
			if err := d.until(vm.ID, stopped); err != nil {
				t.Fatal(err)
			}
			got, _ := d.VM(t.Context(), vm.ID)
			if got.Reason != reason || got.Exit.Kind != kind {
				t.Errorf("%s, daemon dead %v: reason %q, exit %+v", kind, dead, got.Reason, got.Exit)
			}
			report(t, w.check(d), "%s", kind)
			d.kill()
		}
	}
}

// A guest that reboots runs again, also when the daemon wasn't there to see it;
// one that does nothing else is left stopped.
func TestReboots(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{})
	for boots := 2; boots <= 7; boots++ { // the second daemon counts anew, from the third boot on
		if boots == 3 {
			d.kill()
		}
		w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitReboot})
		if boots == 3 {
			d = w.open(nil)
			defer d.kill()
		}
		if err := d.until(vm.ID, runs(boots)); err != nil {
			t.Fatal(err)
		}
	}
	w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitReboot})
	if err := d.until(vm.ID, func(vm banger.VM, _ error) bool { return strings.Contains(vm.Reason, "rebooted more than") }); err != nil {
		t.Fatal(err)
	}
	w.settled(d)
	report(t, w.check(d), "after the loop")
}

// A reboot whose start fails is over: the VM stays stopped, and no later daemon
// starts it.
func TestRebootsThatFail(t *testing.T) {
	for name, fail := range map[string]func(*world, *daemon){
		"no memory": func(_ *world, d *daemon) { d.MemoryMiB = func() int { return 64 } },
		"another reboot, before the agent answered": func(w *world, _ *daemon) {
			w.host.Agent = func(g *fake.Guest) { w.host.EndGuest(g.ID(), banger.Exit{Kind: banger.ExitReboot}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := begun(t)
			vm := d.make(t, banger.Spec{})
			fail(w, d)
			if _, err := d.RestartVM(t.Context(), vm.ID, banger.StopOptions{Force: true}, nil); err == nil {
				t.Fatal("it restarted")
			}
			failed, _ := d.VM(t.Context(), vm.ID)
			if failed.State != banger.Stopped || failed.Exit == nil || !strings.HasPrefix(failed.Reason, "start vm") {
				t.Errorf("%+v", failed)
			}
			d.kill()
			w.host.Agent = nil
			d = w.open(nil)
			defer d.kill()
			w.settled(d)
			if got, _ := d.VM(t.Context(), vm.ID); got.State != banger.Stopped || got.Boots != failed.Boots {
				t.Errorf("the next daemon made of it %+v", got)
			}
		})
	}
}

// A guest that doesn't power off in time is killed, one whose agent can't be
// asked at once.
func TestStopOfAStubbornGuest(t *testing.T) {
	w := newWorld(t)
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool { return req.Op != guest.OpShutdown })
	}
	d := w.open(nil)
	defer d.kill()
	for _, opt := range []banger.StopOptions{{Timeout: 50 * time.Millisecond}, {Force: true}} {
		vm := d.make(t, banger.Spec{})
		got, err := d.StopVM(t.Context(), vm.ID, opt)
		if err != nil || got.State != banger.Stopped || got.Exit == nil || got.Exit.Kind != banger.ExitKilled {
			t.Errorf("%+v: %+v, %v", opt, got, err)
		}
	}
	report(t, w.check(d), "killed")
}

// A guest's clock is set when it was started and when it was found again.
func TestClock(t *testing.T) {
	w := newWorld(t)
	w.clocks = true
	set := make(chan string, 8)
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool {
			if req.Op == guest.OpClock {
				set <- g.ID()
			}
			return true
		})
	}
	w.host.ClockError = time.Hour
	d := w.open(nil)
	vm := d.make(t, banger.Spec{})
	for range 2 {
		if got := <-set; got != vm.ID {
			t.Errorf("the clock of %s was set", got)
		}
		d.kill()
		d = w.open(nil)
	}
	d.kill()
}

func TestLogs(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{})
	path := filepath.Join(w.dir, "vms", vm.ID, "console.log")
	write := func(path, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(path+".1", "one\n")
	r, err := d.Logs(t.Context(), vm.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
	r.Close()

	r, err = d.Logs(t.Context(), vm.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	expect("one\ntwo\n")
	write(path, "three\n")
	expect("three\n")
	if err := os.Rename(path, path+".1"); err != nil { // rotation
		t.Fatal(err)
	}
	write(path+".1", "four\n")
	write(path, "five\n")
	expect("four\nfive\n")
	if _, err := d.StopVM(t.Context(), vm.ID, banger.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	r.Close()
}

func TestCatalog(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{})
	_, err := d.ImportImage(t.Context(), "debian", "x", false, strings.NewReader("another tar"), nil)
	wantCode(t, err, banger.CodeConflict)
	_, err = d.ImportImage(t.Context(), "a b", "x", false, strings.NewReader("t"), nil)
	wantCode(t, err, banger.CodeInvalid)
	wantCode(t, d.DeleteImage(t.Context(), "debian"), banger.CodeConflict)
	if _, err := d.ImportImage(t.Context(), "debian", "x", true, strings.NewReader("another tar"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.StopVM(t.Context(), vm.ID, banger.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil); err != nil {
		t.Errorf("a VM lost its image to a newer one of the same name: %v", err)
	}
	if err := d.DeleteVM(t.Context(), vm.ID); err != nil {
		t.Fatal(err)
	}
	list, _ := d.Images(t.Context())
	for _, i := range list {
		if err := d.DeleteImage(t.Context(), i.Name); err != nil {
			t.Error(err)
		}
	}
	if s := w.host.String(); strings.Contains(s, "image") {
		t.Errorf("files of deleted images stay:\n%s", s)
	}
}

// Many clients do as they like with few names while daemon, guests and host
// die; whatever comes of it, the world is in order afterwards.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	inBubble(t, func(t *testing.T, w *world) {
		for round := range 20 {
			var c chaos
			if round%2 == 0 {
				c.left = 100 + rand.IntN(1000)
			}
			d := w.open(c.decide)
			var wg sync.WaitGroup
			for client := range 8 {
				rnd := rand.New(rand.NewPCG(seed, uint64(round*100+client)))
				wg.Go(func() {
					for range 10 {
						ctx, leave := d.ctx, context.CancelFunc(func() {})
						if rnd.IntN(4) == 0 {
							ctx, leave = c.impatient(d.ctx, 1+rnd.IntN(100))
						}
						err := d.do(func() error { return anything(ctx, d, rnd, fmt.Sprintf("vm-%d", rnd.IntN(4))) })
						leave()
						if err == errDead {
							return
						}
					}
				})
			}
			wg.Wait()
			d.kill()
			if round%5 == 4 {
				w.host.Reboot()
			}
			next := w.open(nil) // who called the last one may still be looking at it
			w.settled(next)
			report(t, w.check(next), "round %d of seed %d", round, seed)
			next.kill()
		}
	})
}

func anything(ctx context.Context, d *daemon, rnd *rand.Rand, name string) error {
	var err error
	switch rnd.IntN(6) {
	case 0, 1:
		_, err = d.CreateVM(ctx, banger.Spec{Name: name}, rnd.IntN(2) == 0, nil)
	case 2:
		_, err = d.StartVM(ctx, name, banger.StartOptions{}, nil)
	case 3:
		_, err = d.StopVM(ctx, name, banger.StopOptions{Force: rnd.IntN(2) == 0})
	case 4:
		err = d.DeleteVM(ctx, name)
	case 5:
		if vm, e := d.VM(ctx, name); e == nil {
			exit := banger.Exit{Kind: []banger.ExitKind{banger.ExitPoweroff, banger.ExitReboot, banger.ExitPanic}[rnd.IntN(3)]}
			// A step, so that none comes when the world is being looked at.
			err = d.life.Step("end of a guest", func() error { d.host.EndGuest(vm.ID, exit); return nil })
		}
	}
	return err
}
