package crash_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

// ruin is something that may become of a handles.json. It is given its bytes,
// those of another VM's, and a process that has nothing to do with any.
type ruin struct {
	name string
	do   func(t *testing.T, path string, own, others []byte, stranger banger.Process)
}

func overwrite(change func(own, others []byte) []byte) func(*testing.T, string, []byte, []byte, banger.Process) {
	return func(t *testing.T, path string, own, others []byte, _ banger.Process) {
		vmtest.Write(t, path, string(change(own, others)))
	}
}

var ruins = []ruin{
	{"edited", func(t *testing.T, path string, own, _ []byte, stranger banger.Process) {
		kept := filepath.Join(t.TempDir(), "kept")
		vmtest.Write(t, kept, "")
		t.Cleanup(func() {
			if _, err := os.Stat(kept); err != nil {
				t.Errorf("a file that isn't ours was deleted: %v", err)
			}
		})
		vmtest.Write(t, path, string(edited(t, own, func(h map[string]any) {
			h["vmm"], h["shim"] = stranger, stranger
			h["ram_file"] = kept
			if *vmtest.Network == "bridge" {
				foreign := fmt.Sprintf("foreign%d", vmtest.Serial()) // this is done twice
				vmtest.IP(t, "tuntap", "add", foreign, "mode", "tap")
				t.Cleanup(func() { vmtest.IP(t, "link", "del", foreign) }) // fails the test when it is gone
				h["tap"] = foreign
			}
			if *vmtest.DiskDriver == "dm-snapshot" {
				maps.Copy(h, strangers(t))
			}
		})))
	}},
	{"emptied", overwrite(func(_, _ []byte) []byte { return nil })},
	{"truncated", overwrite(func(own, _ []byte) []byte { return own[:len(own)/2] })},
	{"another VM's", overwrite(func(_, others []byte) []byte { return others })},
	{"another VM's handles", func(t *testing.T, path string, own, others []byte, _ banger.Process) {
		var other struct {
			Handles map[string]any `json:"handles"`
		}
		if err := json.Unmarshal(others, &other); err != nil {
			t.Fatal(err)
		}
		vmtest.Write(t, path, string(edited(t, own, func(h map[string]any) {
			for key, value := range other.Handles {
				h[key] = value
			}
		})))
	}},
	{"another boot's", overwrite(func(own, _ []byte) []byte {
		boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		return []byte(strings.ReplaceAll(string(own), strings.TrimSpace(string(boot)), "00000000-0000-4000-8000-000000000000"))
	})},
	{"unreadable", func(t *testing.T, path string, _, _ []byte, _ banger.Process) {
		if err := os.Mkdir(path, 0o700); err != nil { // root reads every file
			t.Fatal(err)
		}
	}},
	{"missing", func(*testing.T, string, []byte, []byte, banger.Process) {}},
}

// edited changes the handles in a handles.json.
func edited(t *testing.T, own []byte, change func(handles map[string]any)) []byte {
	t.Helper()
	var file map[string]any
	if err := json.Unmarshal(own, &file); err != nil {
		t.Fatal(err)
	}
	change(file["handles"].(map[string]any))
	out, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// handlesFile returns the path of a running VM's handles.json.
func handlesFile(t *testing.T, h *vmtest.Host, id string) string {
	t.Helper()
	for _, p := range h.Processes() {
		if p.Kind == "shim" && p.VM == id {
			return filepath.Join(p.Argv[1], "handles.json")
		}
	}
	t.Fatalf("VM %s has no shim", id)
	return ""
}

// Whatever becomes of handles.json: while the daemon lives nothing changes; when
// it is restarted the VM is found again, dead or alive, and nobody else is touched.
func TestHandlesFile(t *testing.T) {
	h, before := vmtest.Apart(t)
	sleep := exec.Command("sleep", "infinity")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	defer end()
	stranger, err := proc.Read(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	h.OK(t, "vm", "create", "--name", "victim")
	h.OK(t, "vm", "create", "--name", "other")
	other := h.Show(t, "other")
	others, err := os.ReadFile(handlesFile(t, h, other.ID))
	if err != nil {
		t.Fatal(err)
	}
	boot := func(name string) string {
		return h.OK(t, "vm", "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id")
	}
	otherBoot := boot("other")
	for _, r := range ruins {
		t.Run(r.name, func(t *testing.T) {
			vm, was := h.Show(t, "victim"), boot("victim")
			path := handlesFile(t, h, vm.ID)
			own, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			ruin := func() {
				t.Helper()
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				r.do(t, path, own, others, stranger)
			}
			check := func(when string) {
				t.Helper()
				now := h.Show(t, "victim")
				wantObjects(t, when, vm.Held, true)
				if now.Held != vm.Held || now.State != banger.Running || now.Boots != vm.Boots || boot("victim") != was {
					t.Errorf("%s: %v with %+v, want running with %+v", when, now.State, now.Held, vm.Held)
				}
			}
			ruin()
			check("while the daemon lives")
			vmtest.Kill(t, h.Daemon(t))
			check("after the daemon's restart")
			ruin()
			vmtest.Kill(t, h.Daemon(t))
			for _, p := range []banger.Process{vm.Held.Shim, vm.Held.VMM} {
				_ = proc.Kill(p, unix.SIGKILL)
				if err := proc.Wait(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			vmtest.Until(t, "the end to be noticed", 30*time.Second, func() bool { return h.Show(t, "victim").State == banger.Stopped })
			if now := h.Show(t, "victim"); !now.Held.Empty() {
				t.Errorf("a stopped VM holds %+v", now.Held)
			}
			wantObjects(t, "stopped", vm.Held, false)
			if _, err := os.Stat(vm.Held.RAMFile); err == nil {
				t.Errorf("%s is left", vm.Held.RAMFile)
			}
			if _, err := os.Stat("/sys/class/net/" + vm.Held.Tap); vm.Held.Tap != "" && err == nil {
				t.Errorf("%s is left", vm.Held.Tap)
			}
			if bridged := vm.Held.Tap != ""; bridged != (*vmtest.Network == "bridge") {
				t.Errorf("the VM held TAP %q with --net %q", vm.Held.Tap, *vmtest.Network)
			}
			h.OK(t, "vm", "start", "victim")
			if !proc.Alive(stranger) {
				t.Fatal("a process that isn't ours was killed")
			}
			if now := h.Show(t, "other"); now.Held != other.Held || boot("other") != otherBoot {
				t.Errorf("the other VM was touched: %+v, was %+v", now.Held, other.Held)
			}
		})
	}
	h.OK(t, "vm", "delete", "victim", "other")
	end()
	h.Same(t, before, time.Minute)
}
