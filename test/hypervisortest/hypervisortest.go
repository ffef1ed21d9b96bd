// Package hypervisortest is the contract of banger.Hypervisor as a test suite, to be
// run on each driver and on the fake. It knows nothing of how a driver fulfils it, and
// kills and inspects processes only through the Host that is passed in.
package hypervisortest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger"
	"banger/guest"
)

// Bed is what a suite stands on.
type Bed struct {
	Hypervisor banger.Hypervisor
	// Machine is one that boots to its agent. It was never started.
	Machine banger.Machine
	// Spoil sees to it that the machine's next Start must fail, late. Nil: its
	// kernel will be missing.
	Spoil func()
	Host  Host
	// NoRAMFile says that this driver's guests keep their memory to themselves: it
	// has no name that could be left behind.
	NoRAMFile bool
}

// Host does to a host what the suite needs done.
type Host interface {
	// Alive reports whether this very process lives.
	Alive(p banger.Process) bool
	// Kill ends this process by SIGKILL and returns when it is gone.
	Kill(t *testing.T, p banger.Process)
	// Bystander starts a process that isn't ours and will live for the test. Its
	// arguments say otherwise.
	Bystander(t *testing.T, m banger.Machine) banger.Process
	// Held lists all that a machine holds outside its directory: processes and
	// memory files, in words.
	Held(t *testing.T, m banger.Machine) []string
}

// bootTime bounds what waits for a guest: it is generous, for a busy emulated one.
const bootTime = 3 * time.Minute

// Run holds a driver to the contract. open returns a fresh bed, and sees to it
// that the machine is killed when the test ends.
func Run(t *testing.T, open func(t *testing.T) Bed) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Bed)
	}{
		{"StartDialKill", testStartDialKill},
		{"StartClearsADeadPredecessor", testStartClearsADeadPredecessor},
		{"StartLeavesNothing", testStartLeavesNothing},
		{"StartCanceled", testStartCanceled},
		{"ContextDoesNotEndVMM", testContextDoesNotEndVMM},
		{"DialEndsWithContext", testDialEndsWithContext},
		{"AdoptWithoutHandles", testAdoptWithoutHandles},
		{"AdoptReplacesShim", testAdoptReplacesShim},
		{"AdoptDeadVMM", testAdoptDeadVMM},
		{"AdoptNothing", testAdoptNothing},
		{"RecycledProcess", testRecycledProcess},
		{"KillWithoutHandles", testKillWithoutHandles},
		{"KillNothing", testKillNothing},
		{"Wait", testWait},
		{"WaitAcrossShims", testWaitAcrossShims},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

func (b Bed) start(t *testing.T) banger.Handles {
	t.Helper()
	h, err := b.Hypervisor.Start(t.Context(), b.Machine)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	b.wantAlive(t, h)
	return h
}

func (b Bed) wantAlive(t *testing.T, h banger.Handles) {
	t.Helper()
	if !b.Host.Alive(h.VMM) {
		t.Errorf("the VMM %+v doesn't live", h.VMM)
	}
	if h.Shim != (banger.Process{}) && !b.Host.Alive(h.Shim) {
		t.Errorf("the shim %+v doesn't live", h.Shim)
	}
}

// kill kills the machine and makes sure that nothing remains.
func (b Bed) kill(t *testing.T, h banger.Handles) {
	t.Helper()
	left, err := b.Hypervisor.Kill(t.Context(), b.Machine, h)
	if err != nil || !left.Empty() {
		t.Fatalf("Kill left %+v: %v", left, err)
	}
	b.wantNothing(t)
	for _, p := range []banger.Process{h.VMM, h.Shim} {
		if b.Host.Alive(p) {
			t.Errorf("process %+v outlived Kill", p)
		}
	}
}

func (b Bed) wantNothing(t *testing.T) {
	t.Helper()
	for _, held := range b.Host.Held(t, b.Machine) {
		t.Errorf("still held: %s", held)
	}
	sockets, err := filepath.Glob(filepath.Join(b.Machine.Dir, "*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		t.Errorf("still there: %s", filepath.Base(s))
	}
}

// uptime asks the agent: proof that the channel works, and of which boot it is.
func (b Bed) uptime(t *testing.T) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return b.Hypervisor.Dial(ctx, b.Machine) }}
	health, err := c.Health(ctx)
	if err != nil {
		t.Fatalf("the agent doesn't answer: %v\n%s", err, b.console())
	}
	return health.UptimeMS
}

func (b Bed) console() []byte {
	text, err := os.ReadFile(filepath.Join(b.Machine.Dir, "console.log"))
	if err != nil {
		return []byte("no console: " + err.Error())
	}
	return text[max(0, len(text)-4096):]
}

func testStartDialKill(t *testing.T, b Bed) {
	h := b.start(t)
	if (h.RAMFile == "") != b.NoRAMFile {
		t.Errorf("the guest memory file among the handles is %q", h.RAMFile)
	}
	if h.RAMFile != "" && filepath.Dir(h.RAMFile) != b.Machine.RAMDir {
		t.Errorf("guest memory is %s, want it in %s", h.RAMFile, b.Machine.RAMDir)
	}
	b.uptime(t)
	b.uptime(t) // a second stream
	b.kill(t, h)
	b.kill(t, h) // again, with what is long gone
	b.kill(t, banger.Handles{})
}

func testStartClearsADeadPredecessor(t *testing.T, b Bed) {
	h := b.start(t)
	b.uptime(t)
	if h.Shim != (banger.Process{}) {
		b.Host.Kill(t, h.Shim)
	}
	b.Host.Kill(t, h.VMM)
	again := b.start(t)
	if again.VMM == h.VMM {
		t.Errorf("both runs have the VMM %+v", h.VMM)
	}
	b.uptime(t)
	b.kill(t, again)
}

func testStartLeavesNothing(t *testing.T, b Bed) {
	if b.Spoil != nil {
		b.Spoil()
	} else {
		b.Machine.Kernel = filepath.Join(b.Machine.Dir, "no-such-kernel")
	}
	h, err := b.Hypervisor.Start(t.Context(), b.Machine)
	if err == nil {
		t.Error("Start succeeded")
	}
	if !h.Empty() {
		t.Errorf("Start failed and returned %+v", h)
	}
	b.wantNothing(t)
}

func testStartCanceled(t *testing.T, b Bed) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Hypervisor.Start(ctx, b.Machine); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context ended", err)
	}
	b.wantNothing(t)
}

func testContextDoesNotEndVMM(t *testing.T, b Bed) {
	ctx, cancel := context.WithCancel(t.Context())
	h, err := b.Hypervisor.Start(ctx, b.Machine)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	b.wantAlive(t, h)
	first := b.uptime(t)
	b.wantAlive(t, h)
	if second := b.uptime(t); second < first {
		t.Errorf("the guest was started anew: up %d ms, then %d ms", first, second)
	}
	b.kill(t, h)
}

func testDialEndsWithContext(t *testing.T, b Bed) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := b.Hypervisor.Dial(ctx, b.Machine); err == nil {
		c.Close()
		t.Error("Dial succeeded though its context had ended and nothing runs")
	}
	h := b.start(t)
	if c, err := b.Hypervisor.Dial(ctx, b.Machine); err == nil {
		c.Close()
		t.Error("Dial succeeded though its context had ended")
	}
	b.kill(t, h)
}

func testAdoptWithoutHandles(t *testing.T, b Bed) {
	h := b.start(t)
	first := b.uptime(t)
	for _, saved := range []banger.Handles{{}, h} {
		got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, saved)
		if err != nil || !alive || got != h {
			t.Errorf("Adopt(%+v): %+v, alive %v, %v; want %+v", saved, got, alive, err, h)
		}
	}
	if second := b.uptime(t); second < first {
		t.Errorf("the guest was started anew: up %d ms, then %d ms", first, second)
	}
	b.kill(t, h)
}

func testAdoptReplacesShim(t *testing.T, b Bed) {
	h := b.start(t)
	if h.Shim == (banger.Process{}) {
		t.Skip("this driver has no shim")
	}
	first := b.uptime(t)
	for _, saved := range []banger.Handles{h, {}} {
		b.Host.Kill(t, h.Shim)
		got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, saved)
		if err != nil || !alive || got.VMM != h.VMM || got.Shim == h.Shim || got.RAMFile != h.RAMFile {
			t.Fatalf("Adopt after the shim's death: %+v, alive %v, %v; had %+v", got, alive, err, h)
		}
		b.wantAlive(t, got)
		h = got
		if second := b.uptime(t); second < first {
			t.Errorf("the guest was started anew: up %d ms, then %d ms", first, second)
		}
	}
	b.kill(t, h)
}

func testAdoptDeadVMM(t *testing.T, b Bed) {
	h := b.start(t)
	saved := h
	saved.Tap, saved.COWLoop = "banger-tap-of-another-driver", "/dev/loop-of-another-driver"
	b.Host.Kill(t, h.VMM)
	got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, saved)
	if err != nil || alive || got != saved {
		t.Errorf("Adopt of a dead VMM: %+v, alive %v, %v; want what was saved, %+v", got, alive, err, saved)
	}
	b.kill(t, h)
}

func testAdoptNothing(t *testing.T, b Bed) {
	got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, banger.Handles{})
	if err != nil || alive || !got.Empty() {
		t.Errorf("Adopt of what never ran: %+v, alive %v, %v", got, alive, err)
	}
}

// A saved PID may be another process's by now, even with all the rest right.
func testRecycledProcess(t *testing.T, b Bed) {
	innocent := b.Host.Bystander(t, b.Machine)
	another := innocent
	another.StartTime-- // the process that had this PID before
	for _, p := range []banger.Process{innocent, another} {
		saved := banger.Handles{VMM: p, Shim: p}
		got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, saved)
		if err != nil || alive || got != saved {
			t.Errorf("Adopt(%+v): %+v, alive %v, %v", saved, got, alive, err)
		}
		b.kill2(t, saved)
		if !b.Host.Alive(innocent) {
			t.Fatal("Kill ended a process that was never ours")
		}
	}
	h := b.start(t)
	wrong := h
	wrong.VMM, wrong.Shim = innocent, innocent
	wrong.RAMFile = filepath.Join(t.TempDir(), "another's")
	got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, wrong)
	if err != nil || !alive || got != h {
		t.Errorf("Adopt with another's processes saved: %+v, alive %v, %v; want %+v", got, alive, err, h)
	}
	b.kill2(t, wrong)
	if b.Host.Alive(h.VMM) {
		t.Error("the VMM outlived a Kill with another's process saved")
	}
	if !b.Host.Alive(innocent) {
		t.Error("Kill ended a process that was never ours")
	}
}

// kill2 is kill for handles that name an innocent process.
func (b Bed) kill2(t *testing.T, h banger.Handles) {
	t.Helper()
	if left, err := b.Hypervisor.Kill(t.Context(), b.Machine, h); err != nil || !left.Empty() {
		t.Errorf("Kill(%+v) left %+v: %v", h, left, err)
	}
	b.wantNothing(t)
}

func testKillWithoutHandles(t *testing.T, b Bed) {
	h := b.start(t)
	b.kill(t, banger.Handles{})
	b.kill(t, h)
}

func testKillNothing(t *testing.T, b Bed) {
	b.kill(t, banger.Handles{})
	b.kill(t, banger.Handles{RAMFile: filepath.Join(b.Machine.RAMDir, "never-was")})
}

type outcome struct {
	exit banger.Exit
	err  error
}

func (b Bed) wait(t *testing.T, h banger.Handles) <-chan outcome {
	c := make(chan outcome, 1)
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	t.Cleanup(cancel)
	go func() {
		exit, err := b.Hypervisor.Wait(ctx, b.Machine, h)
		c <- outcome{exit, err}
	}()
	return c
}

func testWait(t *testing.T, b Bed) {
	h := b.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if exit, err := b.Hypervisor.Wait(ctx, b.Machine, h); err == nil {
		t.Errorf("Wait for a running machine returned %+v", exit)
	}
	early := b.wait(t, h)
	b.kill(t, h)
	for what, c := range map[string]<-chan outcome{"before": early, "after": b.wait(t, h)} {
		if o := <-c; o.err != nil || o.exit.Kind != banger.ExitKilled {
			t.Errorf("Wait from %s the end: %+v, %v; want kind %q", what, o.exit, o.err, banger.ExitKilled)
		}
	}
}

func testWaitAcrossShims(t *testing.T, b Bed) {
	h := b.start(t)
	if h.Shim == (banger.Process{}) {
		t.Skip("this driver has no shim")
	}
	waiting := b.wait(t, h)
	b.Host.Kill(t, h.Shim)
	if got, alive, err := b.Hypervisor.Adopt(t.Context(), b.Machine, h); err != nil || !alive {
		t.Fatalf("Adopt: %+v, alive %v, %v", got, alive, err)
	}
	b.Host.Kill(t, h.VMM)
	// Nobody who could wait for the VMM was there: why it ended isn't known.
	if o := <-waiting; o.err != nil || o.exit.Status != -1 {
		t.Errorf("Wait: %+v, %v; want status -1", o.exit, o.err)
	}
	b.kill(t, h)
}
