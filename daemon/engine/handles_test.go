package engine_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/daemon/engine/fleet"
)

// damage is what may happen to handles.json.
var damage = map[string]func(t *testing.T, path string, other banger.VM){
	"left alone": func(*testing.T, string, banger.VM) {},
	"missing":    func(t *testing.T, path string, _ banger.VM) { must(t, os.Remove(path)) },
	"empty":      func(t *testing.T, path string, _ banger.VM) { must(t, os.Truncate(path, 0)) },
	"truncated":  func(t *testing.T, path string, _ banger.VM) { must(t, os.Truncate(path, 20)) },
	"corrupt": func(t *testing.T, path string, _ banger.VM) {
		must(t, os.WriteFile(path, []byte("{\"vm\":\x00\xff]"), 0o600))
	},
	"huge": func(t *testing.T, path string, _ banger.VM) { must(t, os.Truncate(path, 1<<30)) },
	"another VM's": func(t *testing.T, path string, other banger.VM) {
		write(t, path, fleet.Scratch{VM: other.ID, Boots: other.Boots, Handles: other.Held})
	},
	"of an earlier run": edited(func(s *fleet.Scratch) { s.Boots--; s.Handles.VMM.PID = 1 }),
	"of another boot":   edited(func(s *fleet.Scratch) { s.Handles.VMM.BootID = "boot-0"; s.Handles.VMM.PID = 1 }),
	"edited":            edited(func(s *fleet.Scratch) { s.Handles.VMM.PID = 101; s.Handles.RAMFile = "/etc/passwd" }),
	"a directory": func(t *testing.T, path string, _ banger.VM) {
		must(t, os.Remove(path))
		must(t, os.Mkdir(path, 0o700))
	},
	"a dangling link": func(t *testing.T, path string, _ banger.VM) {
		must(t, os.Remove(path))
		must(t, os.Symlink("/nowhere", path))
	},
}

func edited(edit func(*fleet.Scratch)) func(*testing.T, string, banger.VM) {
	return func(t *testing.T, path string, _ banger.VM) {
		raw, err := os.ReadFile(path)
		must(t, err)
		var s fleet.Scratch
		must(t, json.Unmarshal(raw, &s))
		edit(&s)
		write(t, path, s)
	}
}

func write(t *testing.T, path string, s fleet.Scratch) {
	t.Helper()
	raw, err := json.Marshal(s)
	must(t, err)
	must(t, os.WriteFile(path, raw, 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever becomes of handles.json, while the daemon lives or while it is dead,
// whether the VM outlived the daemon or not: nothing leaks, nothing foreign is
// touched, no running VM is lost.
func TestDamagedHandles(t *testing.T) {
	for name, hurt := range damage {
		for _, living := range []bool{true, false} {
			for _, fate := range []string{"runs on", "was killed", "went with the host"} {
				t.Run(name+", "+fate, func(t *testing.T) {
					w := newWorld(t)
					w.host.Stranger("sshd")
					d := w.open(nil)
					vm, other := d.make(t, banger.Spec{Name: "it"}), d.make(t, banger.Spec{Name: "other"})
					path := filepath.Join(w.dir, "vms", vm.ID, "handles.json")
					if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
						t.Fatalf("%v, %v", st, err)
					}
					if living {
						hurt(t, path, other)
						report(t, w.check(d), "while the daemon lives")
					}
					d.kill()
					if !living {
						hurt(t, path, other)
					}
					switch fate {
					case "was killed":
						w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitKilled})
					case "went with the host":
						w.host.Reboot()
						w.host.Stranger("sshd")
						w.host.Stranger("somebody's editor")
					}
					d = w.open(nil)
					defer d.kill()
					w.settled(d)
					report(t, w.check(d), "recovered")
					got, err := d.VM(t.Context(), vm.ID)
					must(t, err)
					if fate == "runs on" && (got.State != banger.Running || got.Held.VMM != vm.Held.VMM) {
						t.Errorf("lost: %+v", got)
					}
					if fate != "runs on" && got.State != banger.Stopped {
						t.Errorf("got %s", got.State)
					}
					must(t, d.DeleteVM(t.Context(), "it"))
					report(t, w.check(d), "deleted")
				})
			}
		}
	}
}

// The scratch file is a copy: a start doesn't fail for want of it.
func TestScratchThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	d := w.open(nil)
	vm, err := d.CreateVM(t.Context(), banger.Spec{}, false, nil)
	must(t, err)
	dir := filepath.Join(w.dir, "vms", vm.ID)
	must(t, os.Mkdir(filepath.Join(dir, "handles.json"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "handles.json", "x"), nil, 0o600))
	started, err := d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil)
	if err != nil || started.State != banger.Running {
		t.Fatalf("%+v, %v", started, err)
	}
	d.kill()
	d = w.open(nil)
	defer d.kill()
	if got, err := d.VM(t.Context(), vm.ID); err != nil || got.Held != started.Held {
		t.Errorf("recovered %+v, %v", got.Held, err)
	}
	report(t, w.check(d), "recovered")
}

// VMs outlive upgrades: what each released version wrote is read as it was
// meant. A new one adds a file; none ever changes.
func TestReleasedScratch(t *testing.T) {
	files, err := filepath.Glob("testdata/released/handles-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	const boot = "aabfdc2b-744b-4214-a4dd-db82f2c35240"
	want := banger.Handles{
		VMM:     banger.Process{PID: 26840, StartTime: 551072, BootID: boot},
		Shim:    banger.Process{PID: 26831, StartTime: 551070, BootID: boot},
		RAMFile: "/dev/shm/banger-56ac692ca05f.ram",
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		must(t, err)
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "handles.json"), raw, 0o600))
		got, err := fleet.ReadScratch(dir, banger.VM{ID: "56ac692ca05f", Boots: 1}, boot)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
	}
}
