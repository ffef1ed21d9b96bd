package vm_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/proc"
)

// templates is the directory of an installation's templates.
func (h *host) templates() string {
	for _, kv := range slices.Backward(h.env) {
		if dir, ok := strings.CutPrefix(kv, "XDG_CACHE_HOME="); ok {
			return filepath.Join(dir, "banger", "templates")
		}
	}
	return ""
}

// Whoever is killed at whichever step of a template's making: there is a whole
// template or none, nothing is left behind, and the next one is made.
func TestMakersKilled(t *testing.T) {
	templatedByQEMU(t)
	h := configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.ok(t, "vm", "create", "--cold", "--name", "first") // what is made once has been made
	h.ok(t, "vm", "delete", "first")
	h.forget(t)
	before := h.inventory(t)
	// A step is known by what it has made.
	steps := []string{"lock", "machine/shim.json", "machine/qmp.sock", "machine/console.log", "out/state", "out/ram", "out/template.json"}
	for _, victim := range []string{"daemon", "vmm", "shim"} {
		for _, step := range steps {
			if victim != "daemon" && (step == "lock" || strings.HasPrefix(step, "out/t")) {
				continue // none lives
			}
			h.killMaker(t, victim, step, "template", "create", "-q")
			if t.Failed() {
				t.Fatalf("%s killed at %s", victim, step)
			}
			h.forget(t)
			h.same(t, before, 30*time.Second)
		}
	}
	h.ok(t, "template", "create", "-q")
	h.ok(t, "vm", "create", "-q", "--name", "after")
	defer h.ok(t, "vm", "delete", "after")
	if vm := h.show(t, "after"); vm.Launch == nil || vm.Launch.Template == "" {
		t.Errorf("it was not restored: %+v", vm.Launch)
	}
}

// forget deletes all templates.
func (h *host) forget(t *testing.T) {
	t.Helper()
	for _, m := range h.allTemplates(t) {
		h.ok(t, "template", "delete", m.ID)
	}
}

// killMaker has a template made and kills a process of its making when the step
// is seen to be reached.
func (h *host) killMaker(t *testing.T, victim, step string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := h.command(ctx, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { defer close(over); _ = c.Wait() }() // it may well fail
	for done := false; !done; {
		select {
		case <-over: // the step was over before it was seen
			return
		default:
		}
		found, _ := filepath.Glob(filepath.Join(h.templates(), ".making-*", step))
		if len(found) == 0 {
			time.Sleep(time.Millisecond) // an image's guest needs the CPU for a while until then
			continue
		}
		for _, p := range h.processes() {
			if p.kind == victim {
				_ = proc.Kill(p.Process, unix.SIGKILL)
				done = true
			}
		}
		if victim == "vmm" || victim == "shim" {
			done = true // a vmm that isn't there yet, or no more, was not to be killed
		}
	}
	<-over
}

// There is no room for a template, in memory or on a disk: it isn't made, nothing
// is left, VMs boot.
func TestNoRoomForATemplate(t *testing.T) {
	templatedByQEMU(t)
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			h := configured(t, "memory_mib = 256\nvcpu = 1\n")
			fs := newSmall(t, kind)
			h.close()
			h.env = append(slices.Clip(h.env), "XDG_CACHE_HOME="+fs.dir)
			for _, args := range [][]string{{"template", "create", "-q"}, {"image", "warm", image}} {
				if r := h.run(nil, args...); r.status == 0 || !strings.Contains(string(r.stderr), "is full") {
					t.Errorf("%s: status %d, %s", args[0], r.status, r.stderr)
				}
				entries, err := os.ReadDir(h.templates())
				if err != nil || len(entries) != 0 {
					t.Errorf("%s: left behind: %v, %v", args[0], entries, err)
				}
			}
			h.ok(t, "vm", "create", "-q", "--name", "cold")
			if vm := h.show(t, "cold"); vm.Launch == nil || vm.Launch.Template != "" || vm.Launch.Why == "" {
				t.Errorf("launch %+v", vm.Launch)
			}
			h.ok(t, "vm", "delete", "cold")
			h.close() // nothing of ours is on what will be unmounted
		})
	}
}

// The same deaths while an image template is made, whose guest has a disk.
func TestImageMakersKilled(t *testing.T) {
	takesLong(t)
	templatedByQEMU(t)
	h := configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.ok(t, "vm", "create", "--cold", "--name", "first")
	h.ok(t, "vm", "delete", "first")
	h.forget(t)
	before := h.inventory(t)
	for _, at := range [][2]string{
		{"daemon", "machine/console.log"}, {"daemon", "out/state"}, {"daemon", "out/disk"}, {"vmm", "out/state"}, {"shim", "out/state"},
	} {
		h.killMaker(t, at[0], at[1], "image", "warm", image)
		if t.Failed() {
			t.Fatalf("%s killed at %s", at[0], at[1])
		}
		h.forget(t)
		h.same(t, before, 30*time.Second)
	}
	h.ok(t, "image", "warm", image)
	h.ok(t, "vm", "create", "-q", "--name", "after")
	defer h.ok(t, "vm", "delete", "after")
	if vm := h.show(t, "after"); vm.Launch == nil || vm.Launch.Template == "" {
		t.Errorf("it was not restored: %+v", vm.Launch)
	}
}

// mortal lets the agent be killed, once, where its source says mortal().
var mortal = edit{"agent/renew/renew.go", "// Run does the steps", `func mortal() {
	if os.Mkdir("/dev/died", 0o700) == nil { // the next one lives
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {}
	}
}

// Run does the steps`}

// The agent of a template's guest is killed: there is no template, or one whose
// VMs are what they should be.
func TestMakersAgentKilled(t *testing.T) {
	canSabotage(t)
	for name, at := range map[string]edit{
		"freeze": {"agent/renew/freeze.go", "	if !frozen.CompareAndSwap(false, true) {", "	mortal()\n	if !frozen.CompareAndSwap(false, true) {"},
		"frozen": {"agent/renew/freeze.go", "	go sayFrozen(hungUp)", "	mortal()\n	go sayFrozen(hungUp)"},
		"hold":   {"agent/renew/hold.go", "	if err := h.dropKeys(); err != nil {", "	mortal()\n	if err := h.dropKeys(); err != nil {"},
		"held":   {"agent/renew/hold.go", "	go sayFrozen(hungUp)", "	mortal()\n	go sayFrozen(hungUp)"},
	} {
		t.Run(name, func(t *testing.T) {
			if at.file == "agent/renew/hold.go" {
				takesLong(t) // an image's template, whose init has to come up first
			}
			h := configured(t, "memory_mib = 256\nvcpu = 1\n")
			h.forget(t)
			h.close()
			h.bin = sabotaged(t, []edit{mortal, at})
			args := []string{"template", "create", "-q"}
			if strings.HasPrefix(name, "h") {
				args = []string{"image", "warm", image}
			}
			r := h.run(nil, args...)
			t.Logf("status %d: %s", r.status, r.stderr)
			if entries, err := os.ReadDir(h.templates()); err != nil || r.status != 0 && len(entries) != 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
			h.ok(t, "vm", "create", "-q", "--name", "after")
			if got := h.ok(t, "vm", "exec", "after", "--", "hostname"); got != "after\n" {
				t.Errorf("it calls itself %q", got)
			}
			h.ok(t, "vm", "delete", "after")
			h.forget(t)
		})
	}
}
