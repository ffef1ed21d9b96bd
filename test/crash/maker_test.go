package crash_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/host/proc"
	"banger/test/vmtest"
)

// templates is the directory of an installation's templates.
func templates(h *vmtest.Host) string {
	for _, kv := range slices.Backward(h.Env) {
		if dir, ok := strings.CutPrefix(kv, "XDG_CACHE_HOME="); ok {
			return filepath.Join(dir, "banger", "templates")
		}
	}
	return ""
}

// Whoever is killed at whichever step of a template's making: there is a whole
// template or none, nothing is left behind, and the next one is made.
func TestMakersKilled(t *testing.T) {
	vmtest.TemplatedByQEMU(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.OK(t, "vm", "create", "--cold", "--name", "first") // what is made once has been made
	h.OK(t, "vm", "delete", "first")
	forget(t, h)
	before := h.Inventory(t)
	// A step is known by what it has made.
	steps := []string{"lock", "machine/shim.json", "machine/qmp.sock", "machine/console.log", "out/state", "out/ram", "out/template.json"}
	for _, victim := range []string{"daemon", "vmm", "shim"} {
		for _, step := range steps {
			if victim != "daemon" && (step == "lock" || strings.HasPrefix(step, "out/t")) {
				continue // none lives
			}
			killMaker(t, h, victim, step, "template", "create", "-q")
			if t.Failed() {
				t.Fatalf("%s killed at %s", victim, step)
			}
			forget(t, h)
			h.Same(t, before, 30*time.Second)
		}
	}
	h.OK(t, "template", "create", "-q")
	h.OK(t, "vm", "create", "-q", "--name", "after")
	defer h.OK(t, "vm", "delete", "after")
	if vm := h.Show(t, "after"); vm.Launch == nil || vm.Launch.Template == "" {
		t.Errorf("it was not restored: %+v", vm.Launch)
	}
}

// forget deletes all templates.
func forget(t *testing.T, h *vmtest.Host) {
	t.Helper()
	for _, m := range allTemplates(t, h) {
		h.OK(t, "template", "delete", m.ID)
	}
}

// killMaker has a template made and kills a process of its making when the step
// is seen to be reached.
func killMaker(t *testing.T, h *vmtest.Host, victim, step string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := h.Command(ctx, args...)
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
		found, _ := filepath.Glob(filepath.Join(templates(h), ".making-*", step))
		if len(found) == 0 {
			time.Sleep(time.Millisecond) // an image's guest needs the CPU for a while until then
			continue
		}
		for _, p := range h.Processes() {
			if p.Kind == victim {
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
	vmtest.TemplatedByQEMU(t)
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
			fs := newSmall(t, kind)
			h.Close()
			h.Env = append(slices.Clip(h.Env), "XDG_CACHE_HOME="+fs.dir)
			for _, args := range [][]string{{"template", "create", "-q"}, {"image", "warm", vmtest.Image}} {
				if r := h.Run(nil, args...); r.Status == 0 || !strings.Contains(string(r.Stderr), "is full") {
					t.Errorf("%s: status %d, %s", args[0], r.Status, r.Stderr)
				}
				entries, err := os.ReadDir(templates(h))
				if err != nil || len(entries) != 0 {
					t.Errorf("%s: left behind: %v, %v", args[0], entries, err)
				}
			}
			h.OK(t, "vm", "create", "-q", "--name", "cold")
			if vm := h.Show(t, "cold"); vm.Launch == nil || vm.Launch.Template != "" || vm.Launch.Why == "" {
				t.Errorf("launch %+v", vm.Launch)
			}
			h.OK(t, "vm", "delete", "cold")
			h.Close() // nothing of ours is on what will be unmounted
		})
	}
}

// The same deaths while an image template is made, whose guest has a disk.
func TestImageMakersKilled(t *testing.T) {
	vmtest.TakesLong(t)
	vmtest.TemplatedByQEMU(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.OK(t, "vm", "create", "--cold", "--name", "first")
	h.OK(t, "vm", "delete", "first")
	forget(t, h)
	before := h.Inventory(t)
	for _, at := range [][2]string{
		{"daemon", "machine/console.log"}, {"daemon", "out/state"}, {"daemon", "out/disk"}, {"vmm", "out/state"}, {"shim", "out/state"},
	} {
		killMaker(t, h, at[0], at[1], "image", "warm", vmtest.Image)
		if t.Failed() {
			t.Fatalf("%s killed at %s", at[0], at[1])
		}
		forget(t, h)
		h.Same(t, before, 30*time.Second)
	}
	h.OK(t, "image", "warm", vmtest.Image)
	h.OK(t, "vm", "create", "-q", "--name", "after")
	defer h.OK(t, "vm", "delete", "after")
	if vm := h.Show(t, "after"); vm.Launch == nil || vm.Launch.Template == "" {
		t.Errorf("it was not restored: %+v", vm.Launch)
	}
}

// mortal lets the agent be killed, once, where its source says mortal().
var mortal = edit{"guest/agent/renew/renew.go", "// Run does the steps", `func mortal() {
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
		"freeze": {"guest/agent/renew/freeze.go", "	if !frozen.CompareAndSwap(false, true) {", "	mortal()\n	if !frozen.CompareAndSwap(false, true) {"},
		"frozen": {"guest/agent/renew/freeze.go", "	go sayFrozen(hungUp)", "	mortal()\n	go sayFrozen(hungUp)"},
		"hold":   {"guest/agent/renew/hold.go", "	if err := h.dropKeys(); err != nil {", "	mortal()\n	if err := h.dropKeys(); err != nil {"},
		"held":   {"guest/agent/renew/hold.go", "	go sayFrozen(hungUp)", "	mortal()\n	go sayFrozen(hungUp)"},
	} {
		t.Run(name, func(t *testing.T) {
			if at.file == "guest/agent/renew/hold.go" {
				vmtest.TakesLong(t) // an image's template, whose init has to come up first
			}
			h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
			forget(t, h)
			h.Close()
			h.Bin = sabotaged(t, []edit{mortal, at})
			args := []string{"template", "create", "-q"}
			if strings.HasPrefix(name, "h") {
				args = []string{"image", "warm", vmtest.Image}
			}
			r := h.Run(nil, args...)
			t.Logf("status %d: %s", r.Status, r.Stderr)
			if entries, err := os.ReadDir(templates(h)); err != nil || r.Status != 0 && len(entries) != 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
			h.OK(t, "vm", "create", "-q", "--name", "after")
			if got := h.OK(t, "vm", "exec", "after", "--", "hostname"); got != "after\n" {
				t.Errorf("it calls itself %q", got)
			}
			h.OK(t, "vm", "delete", "after")
			forget(t, h)
		})
	}
}
