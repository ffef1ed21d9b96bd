package crash_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

// restoreSteps are the steps of a restore in their order, each known by what it
// has made in the VM's directory.
var restoreSteps = []string{"disk.ext4", "shim.lock", "shim.sock", "shim.json", "qmp.sock", "handles.json", "console.log"}

// Whoever is killed at whichever step of a restore: there is a VM that is itself,
// restored or booted and saying why, or there is none and nothing of it.
func TestRestoresKilled(t *testing.T) {
	vmtest.TemplatedByQEMU(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.OK(t, "vm", "create", "--cold", "--name", "first") // what is made once has been made
	h.OK(t, "vm", "delete", "first")
	h.OK(t, "template", "create", "-q")
	for _, sort := range []string{"template", "image template"} {
		t.Run(sort, func(t *testing.T) {
			victims := []string{"cli", "daemon", "shim", "vmm"}
			if sort == "image template" {
				vmtest.TakesLong(t)
				h.OK(t, "image", "warm", vmtest.Image)
				victims = victims[1:]
			}
			all := allTemplates(t, h)
			i := slices.IndexFunc(all, func(m banger.Template) bool { return (m.Image != "") == (sort == "image template") })
			if i < 0 {
				t.Fatalf("no %s: %+v", sort, all)
			}
			k := keepTemplate(t, h, all[i].ID)
			before := h.Inventory(t)
			ended, cost := map[string]int{}, []string(nil)
			for _, victim := range victims {
				for _, step := range restoreSteps {
					ended[k.kill(t, victim, step)]++
					if t.Failed() {
						t.Fatalf("%s killed at %s", victim, step)
					}
					if !slices.ContainsFunc(allTemplates(t, h), func(m banger.Template) bool { return m.ID == all[i].ID }) {
						cost = append(cost, victim+" at "+step)
					}
					k.putBack(t)
					h.Same(t, before, time.Minute)
				}
			}
			t.Logf("%s: %v", sort, ended)
			if len(cost) > 0 {
				t.Errorf("a template is innocent of these deaths, and was removed: %q", cost)
			}
			if ended["booted"] == 0 || ended["restored"] == 0 {
				t.Errorf("of a %s, kills came too late, or too early: %v", sort, ended)
			}
		})
	}
	forget(t, h)
}

// allTemplates returns what the daemon says of templates.
func allTemplates(t *testing.T, h *vmtest.Host) []banger.Template {
	t.Helper()
	all, err := vmtest.Results[banger.Template](h.OK(t, "template", "list", "--json"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// kill creates a VM from the template, kills one of its processes when a step is
// seen to be reached, says what became of the VM, and deletes it.
func (k *kept) kill(t *testing.T, victim, step string) (end string) {
	t.Helper()
	h, name := k.h, "struck"
	c := h.Command(t.Context(), "vm", "create", "-q", "--name", name)
	var words bytes.Buffer
	c.Stderr = &words
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- c.Wait() }()
	var err error
	for struck, done := false, false; !done; {
		select {
		case err = <-over:
			done = true
		default:
			if found, _ := filepath.Glob(filepath.Join(h.State, "banger", "vms", "*", step)); struck || len(found) == 0 {
				continue
			}
			for _, p := range h.Processes() {
				if p.Kind == victim {
					_ = proc.Kill(p.Process, unix.SIGKILL)
				}
			}
			struck = true // one that isn't there yet, or no more, was not to be killed
		}
	}
	var vms []banger.VM
	vmtest.Until(t, "the VM at rest", 3*time.Minute, func() bool {
		r := h.Run(nil, "vm", "list", "--json")
		var err error
		vms, err = vmtest.Results[banger.VM](string(r.Stdout))
		return r.Status == 0 && err == nil &&
			!slices.ContainsFunc(vms, func(vm banger.VM) bool { return vm.State != banger.Running && vm.State != banger.Stopped })
	})
	switch {
	case len(vms) == 0 && err == nil:
		t.Errorf("a VM that was acknowledged is lost")
		return "lost"
	case len(vms) == 0:
		return "undone"
	case vms[0].State == banger.Stopped && (victim != "vmm" || vms[0].Reason == ""):
		t.Errorf("it is stopped: %s; %s", vms[0].Reason, words.Bytes())
	case vms[0].State == banger.Stopped:
		end = "stopped"
		h.OK(t, "vm", "start", name)
	case vms[0].Launch == nil || vms[0].Launch.Template == "" && vms[0].Launch.Why == "":
		t.Errorf("it doesn't say how it was started: %+v", vms[0].Launch)
	case vms[0].Launch.Template == "":
		end = "booted"
		t.Logf("%s killed at %s: %s", victim, step, vms[0].Launch.Why)
	default:
		end = "restored"
	}
	if got := h.OK(t, "vm", "exec", name, "--", "cat", "/proc/sys/kernel/hostname", "/etc/hostname"); got != name+"\n"+name+"\n" {
		t.Errorf("it calls itself %q", got)
	}
	h.OK(t, "vm", "delete", name)
	return end
}

// A template whose state the hypervisor doesn't take, as of another version of
// its: the VM boots, says so, and the template is gone.
func TestStateOfAnotherVersion(t *testing.T) {
	vmtest.TemplatedByQEMU(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	id := strings.TrimSpace(h.OK(t, "template", "create", "-q"))
	dir := filepath.Join(templates(h), id)
	h.Close()
	raw, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	// The stream names its machine (QEMU's docs/devel/migration, "configuration").
	other := bytes.Replace(raw, []byte("microvm"), []byte("micropc"), 1)
	if bytes.Equal(raw, other) {
		t.Fatal("the state doesn't name its machine")
	}
	k := keepTemplate(t, h, id)
	k.forge(t, "state", other)
	h.OK(t, "vm", "create", "-q", "--name", "other")
	defer h.OK(t, "vm", "delete", "other")
	vm := h.Show(t, "other")
	if vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, id) || !strings.Contains(vm.Launch.Why, "didn't work") {
		t.Errorf("launch %+v", vm.Launch)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "state")); err == nil && bytes.Equal(raw, other) {
		t.Error("the template is still there")
	}
}

// forge puts other bytes into a file of the template, and has its manifest agree.
func (k *kept) forge(t *testing.T, file string, data []byte) {
	t.Helper()
	path := filepath.Join(k.dir, file)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	manifest := filepath.Join(k.dir, "template.json")
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // times are in nanoseconds
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	m["files"].(map[string]any)[file] = map[string]any{"size": st.Size(), "mtime": st.ModTime().UnixNano(), "crc32c": sumOf(data)}
	if raw, err = json.Marshal(m); err == nil {
		err = os.WriteFile(manifest, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sumOf is the checksum of a template's file: of each page that isn't all zeros,
// its offset before it.
func sumOf(data []byte) (crc uint32) {
	table := crc32.MakeTable(crc32.Castagnoli)
	at := 0
	for page := range slices.Chunk(data, 4096) {
		if bytes.ContainsFunc(page, func(r rune) bool { return r != 0 }) {
			crc = crc32.Update(crc32.Update(crc, table, fmt.Appendf(nil, "%d:", at)), table, page)
		}
		at += len(page)
	}
	return crc
}

// A hypervisor that is replaced under its template makes no VM of it: the next
// one is booted, says that there is none for it, and gets its own.
func TestHypervisorUpgraded(t *testing.T) {
	vmtest.TemplatedByQEMU(t)
	real, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	// It looks for its modules and firmware beside where it lies.
	prefix := t.TempDir()
	bin := filepath.Join(prefix, "bin")
	qemu := filepath.Join(bin, "qemu-system-x86_64")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"lib", "share"} {
		if err := os.Symlink(filepath.Join(filepath.Dir(filepath.Dir(real)), dir), filepath.Join(prefix, dir)); err != nil {
			t.Fatal(err)
		}
	}
	copyAll(t, real, qemu)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.Env = append(slices.Clip(h.Env), "PATH="+bin+":"+os.Getenv("PATH"))
	old := strings.TrimSpace(h.OK(t, "template", "create", "-q"))
	// As a package manager does it: another file under the name, while the daemon runs.
	copyAll(t, real, qemu+".new")
	now := time.Now()
	if err := errors.Join(os.Chtimes(qemu+".new", now, now), os.Rename(qemu+".new", qemu)); err != nil {
		t.Fatal(err)
	}
	h.OK(t, "vm", "create", "-q", "--name", "upgraded")
	defer h.OK(t, "vm", "delete", "upgraded")
	if vm := h.Show(t, "upgraded"); vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, "no template") {
		t.Errorf("launch %+v", vm.Launch)
	}
	vmtest.Until(t, "a template of its own, and the old one gone", 3*time.Minute, func() bool {
		all := slices.DeleteFunc(allTemplates(t, h), func(tpl banger.Template) bool { return tpl.MemoryMiB != 256 })
		return len(all) == 1 && all[0].ID != old // beside what tests before it left
	})
	forget(t, h)
}
