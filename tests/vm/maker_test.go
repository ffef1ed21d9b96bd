package vm_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
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
	templated(t)
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
			h.killMaker(t, victim, step)
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
	var all []banger.Template
	if err := json.Unmarshal([]byte(h.ok(t, "template", "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		h.ok(t, "template", "delete", m.ID)
	}
}

// killMaker has a template made and kills a process of its making when the step
// is seen to be reached.
func (h *host) killMaker(t *testing.T, victim, step string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := h.command(ctx, "template", "create", "-q")
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

// There is no room for a template: it isn't made, nothing is left, VMs boot.
func TestNoRoomForATemplate(t *testing.T) {
	templated(t)
	h := configured(t, "memory_mib = 256\nvcpu = 1\n")
	fs := newSmall(t, "tmpfs")
	h.close()
	h.env = append(slices.Clip(h.env), "XDG_CACHE_HOME="+fs.dir)
	r := h.run(nil, "template", "create", "-q")
	if r.status == 0 || !strings.Contains(string(r.stderr), "is full") {
		t.Errorf("status %d, %s", r.status, r.stderr)
	}
	entries, err := os.ReadDir(h.templates())
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	h.ok(t, "vm", "create", "-q", "--name", "cold")
	defer h.ok(t, "vm", "delete", "cold")
	if vm := h.show(t, "cold"); vm.Launch == nil || vm.Launch.Template != "" || vm.Launch.Why == "" {
		t.Errorf("launch %+v", vm.Launch)
	}
}
