package crash_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

var (
	stormKills = flag.Int("storm-kills", 60, "how often the crash storm kills a process")
	stormSeed  = flag.Uint64("storm-seed", 0, "replay the crash storm of this seed; 0: a new one")
)

// storm kills processes of an installation at random.
type storm struct {
	h   *vmtest.Host
	rnd *rand.Rand

	mu    sync.Mutex
	total int
	kinds map[string]int
	vmms  map[string]int // by VM
}

// strike kills one process of a random kind, or of the next kind that has one.
// What a kill may explain is counted before the kill. A VMM's death ends a life
// that others are to survive, so it is the rarest.
func (s *storm) strike() {
	kinds := []string{"daemon", "cli", "shim", "daemon", "cli", "shim", "vmm"}
	kind := s.rnd.IntN(len(kinds))
	all := s.h.Processes()
	for i := range kinds {
		name := kinds[(kind+i)%len(kinds)]
		targets := slices.DeleteFunc(slices.Clone(all), func(p vmtest.Process) bool { return p.Kind != name })
		if len(targets) == 0 {
			continue
		}
		s.kill(targets[s.rnd.IntN(len(targets))])
		return
	}
}

func (s *storm) kill(p vmtest.Process) {
	s.mu.Lock()
	s.total++
	s.kinds[p.Kind]++
	if p.Kind == "vmm" {
		s.vmms[p.VM]++
	}
	s.mu.Unlock()
	_ = proc.Kill(p.Process, unix.SIGKILL) // it may have ended
}

func (s *storm) kills() int { s.mu.Lock(); defer s.mu.Unlock(); return s.total }

func (s *storm) vmmKills(id string) int { s.mu.Lock(); defer s.mu.Unlock(); return s.vmms[id] }

// calmEvery is the number of kills after which there is none for a while.
const calmEvery = 20

// calm waits until each soul got something done that no kill could help along:
// the next kill sets free what hangs.
func (s *storm) calm(t *testing.T, souls []*soul) {
	vmtest.Until(t, "everybody to get on after the last kill", 6*time.Minute, func() bool {
		return t.Failed() || !slices.ContainsFunc(souls, func(u *soul) bool { return u.good.Load() < int64(s.kills()) })
	})
}

// soul is one VM as its user knows it, and its user.
type soul struct {
	t    *testing.T
	s    *storm
	rnd  *rand.Rand
	name string

	id       string       // "" when there is none
	leaving  bool         // somebody asked for its deletion and wasn't told how it ended
	boot     string       // the guest's boot id, "" when it may be a new one
	vmmKills int          // of this VM when boot was set
	seen     int          // kills of all when boot was seen last
	acked    map[int]bool // files the guest said it synced
	tried    int
	good     atomic.Int64 // kills when the last operation that succeeded began; -1: none did
	done     map[string]int
}

// do runs one command. One that fails must have been in reach of a kill.
func (u *soul) do(op string, args ...string) vmtest.Result {
	began := u.s.kills()
	r := u.s.h.Run(nil, args...)
	switch {
	case r.Status == 0:
		u.good.Store(int64(began))
		u.done[op]++
	case int64(u.s.kills()) == max(0, u.good.Load()):
		u.t.Errorf("%s: no kill explains that banger %v fails with %d: %s", u.name, args, r.Status, r.Stderr)
		u.s.h.Autopsy(u.t)
	}
	return r
}

// look waits until the VM is at rest, or gone.
func (u *soul) look() (vm banger.VM, there bool) {
	vmtest.Until(u.t, u.name+" at rest", 4*time.Minute, func() bool {
		r := u.s.h.Run(nil, "vm", "list", "--json")
		all, err := vmtest.Results[banger.VM](string(r.Stdout))
		if r.Status != 0 || err != nil {
			return false
		}
		i := slices.IndexFunc(all, func(v banger.VM) bool { return v.Spec.Name == u.name })
		if there = i >= 0; !there {
			return true
		}
		vm = all[i]
		return vm.State == banger.Running || vm.State == banger.Stopped
	})
	return vm, there
}

// live does one thing after another until ctx ends.
func (u *soul) live(ctx context.Context) {
	for ctx.Err() == nil && !u.t.Failed() {
		vm, there := u.look()
		switch n := u.rnd.IntN(20); {
		case !there && u.leaving:
			u.id, u.leaving = "", false
		case there != (u.id != "") || there && vm.ID != u.id:
			u.t.Errorf("%s: its VM should be %q, and is %q", u.name, u.id, vm.ID)
		case !there:
			u.create()
		case vm.State == banger.Stopped:
			u.boot = ""
			u.do("start", "vm", "start", u.name)
		case n < 2:
			u.boot = ""
			u.do("stop", "vm", "stop", u.name)
		case n < 3:
			u.boot = ""
			u.do("stop at once", "vm", "stop", "--force", u.name)
		case n < 5:
			u.delete()
		default:
			u.mark()
		}
	}
}

func (u *soul) create() {
	r := u.do("create", "vm", "create", "--name", u.name)
	vm, there := u.look()
	if r.Status != 0 && there {
		// Nobody was told that it is there, so it may go yet, or stay.
		for u.id = vm.ID; u.id != "" && !u.t.Failed(); {
			u.delete()
		}
		return
	}
	if !there {
		if r.Status == 0 {
			u.t.Errorf("%s: the VM that was acknowledged is lost", u.name)
		}
		return
	}
	u.id, u.boot, u.leaving, u.acked = vm.ID, "", false, map[int]bool{}
}

func (u *soul) delete() {
	r := u.do("delete", "vm", "delete", u.name)
	_, there := u.look()
	if there && r.Status == 0 {
		u.t.Errorf("%s: the VM that was deleted is there", u.name)
	}
	if u.leaving = there; !there {
		u.id = ""
	}
}

// mark has the guest say which boot it is and what it remembers, and remember
// one thing more.
func (u *soul) mark() {
	u.tried++
	kills, all := u.s.vmmKills(u.id), u.s.kills()
	r := u.do("exec", "vm", "exec", u.name, "--", "sh", "-c", fmt.Sprintf(
		"cat /proc/sys/kernel/random/boot_id; cat /root/marks/* 2>/dev/null; mkdir -p /root/marks && echo %d > /root/marks/%[1]d && sync", u.tried))
	if r.Status != 0 {
		return
	}
	lines := strings.Fields(string(r.Stdout))
	if u.boot != "" && lines[0] != u.boot && u.vmmKills == u.s.vmmKills(u.id) {
		u.t.Errorf("%s: the guest was booted anew, though nobody killed its VMM", u.name)
	}
	if u.boot == lines[0] {
		u.done["kill survived"] += all - u.seen
	}
	u.boot, u.vmmKills, u.seen = lines[0], kills, all
	lost := false
	for n := range u.acked {
		if !slices.Contains(lines[1:], fmt.Sprint(n)) {
			u.t.Errorf("%s: the guest synced file %d and has lost it: %q", u.name, n, lines)
			lost = true
		}
	}
	if lost {
		u.doubt()
	}
	u.acked[u.tried] = true
}

// doubt logs what tells files that hold something wrong from a guest that reads
// them wrong: other ways to read, and the next boot.
func (u *soul) doubt() {
	look := "cd /root/marks; ls -lsi; od -c *; cat * | od -c; dd if=$(ls | head -n 1) bs=512 2>/dev/null | od -c; dmesg | tail -n 20"
	u.t.Logf("%s: %s", u.name, u.s.h.Run(nil, "vm", "exec", u.name, "--", "sh", "-c", look).Stdout)
	u.s.h.Run(nil, "vm", "restart", u.name)
	u.t.Logf("%s, booted again: %s", u.name, u.s.h.Run(nil, "vm", "exec", u.name, "--", "sh", "-c", look).Stdout)
}

// Daemon, CLI, shim and VMM are killed at random moments while several VMs are
// created, started, used, stopped and deleted. Nothing acknowledged is lost,
// whose VMM lives runs on, and in the end the host is as it was.
func TestCrashStorm(t *testing.T) {
	h, before := vmtest.Apart(t)
	seed := *stormSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -storm-seed %d -storm-kills %d", seed, *stormKills)
	s := &storm{h: h, rnd: rand.New(rand.NewPCG(seed, 0)), kinds: map[string]int{}, vmms: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var living sync.WaitGroup
	souls := make([]*soul, 3)
	for i := range souls {
		souls[i] = &soul{t: t, s: s, rnd: rand.New(rand.NewPCG(seed, uint64(i+1))), name: fmt.Sprintf("storm%d", i), done: map[string]int{}}
		souls[i].good.Store(-1)
		living.Go(func() { souls[i].live(ctx) })
	}
	s.calm(t, souls) // else a few kills are over before there is a guest to survive them
	for s.kills() < *stormKills && !t.Failed() {
		// The random moment: every second one soon after the last, for kills that meet;
		// the others as far apart as guests are slow.
		time.Sleep(time.Duration(s.rnd.Int64N(int64([]time.Duration{100 * time.Millisecond, 2 * h.Creation}[s.rnd.IntN(2)]))))
		s.strike()
		if s.kills()%calmEvery == 0 {
			s.calm(t, souls)
		}
	}
	cancel()
	living.Wait()
	survived := 0
	for _, u := range souls {
		if vm, there := u.look(); there {
			if vm.State == banger.Stopped && !u.leaving {
				u.boot = ""
				h.OK(t, "vm", "start", u.name)
			}
			if !u.leaving {
				u.mark()
				// However the dice fell, each guest lives through the deaths that it is to.
				for _, p := range h.Processes() {
					if p.Kind == "daemon" || p.Kind == "shim" && p.VM == u.id {
						s.kill(p)
					}
				}
				u.mark()
			}
			h.OK(t, "vm", "delete", u.name)
		}
		t.Logf("%s: %v succeeded, %d synced files in the last VM", u.name, u.done, len(u.acked))
		survived += u.done["kill survived"]
		if u.done["exec"] == 0 || u.done["create"] == 0 {
			t.Errorf("%s got nothing done", u.name)
		}
	}
	t.Logf("%d kills: %v", s.total, s.kinds)
	if survived == 0 {
		t.Error("no guest was there before and after a kill")
	}
	h.Same(t, before, time.Minute)
}

// CLI, daemon and shim are killed in the very moment in which the shim has
// spawned the VMM, before anybody could write down that there is one.
func TestKilledAtSpawn(t *testing.T) {
	h, before := vmtest.Apart(t)
	orphans := 0
	for range 12 {
		create := h.Command(t.Context(), "vm", "create", "--name", "spawned")
		if err := create.Start(); err != nil {
			t.Fatal(err)
		}
		// Both kinds: a shim that is about to spawn, and a VMM that was just spawned,
		// before or after it became another program.
		awaited := []string{"shim", "vmm"}[rand.IntN(2)]
		var all []vmtest.Process
		for end := time.Now().Add(time.Minute); !slices.ContainsFunc(all, func(p vmtest.Process) bool { return p.Kind == awaited }); all = h.Processes() {
			if time.Now().After(end) {
				t.Fatalf("no %s", awaited)
			}
		}
		for _, kind := range []string{"cli", "daemon", "shim"} {
			for _, p := range all {
				if p.Kind == kind {
					_ = proc.Kill(p.Process, unix.SIGKILL) // it may have ended
				}
			}
		}
		_ = create.Wait() // it was killed
		for _, p := range h.Processes() {
			if p.Kind == "vmm" {
				orphans++
			}
		}
		h.Same(t, before, time.Minute)
	}
	t.Logf("%d VMMs were left without anybody who knew of them", orphans)
	if orphans == 0 {
		t.Error("no kill came in time to leave a VMM without a shim")
	}
}
