package machine_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger"
	"banger/host/proc"
	"banger/vmm/machine"
	"banger/vmm/shim"
)

// TestMain makes a copy of this program a VMM that does nothing until its standard
// input ends.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--vm" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

const id = "0123456789ab"

// vmm is a hypervisor whose VMMs listen nowhere.
type vmm struct{ listener func() int }

func (v vmm) Traits() machine.Traits {
	return machine.Traits{Name: "Testvisor", Programs: []string{"testvisor"}, VM: func(argv []string) string {
		return machine.Option(argv, "--vm")
	}}
}

func (v vmm) Listener(context.Context, banger.Machine) (int, error) {
	if v.listener == nil {
		return 0, os.ErrNotExist
	}
	return v.listener(), nil
}

func (vmm) Found(_ context.Context, _ banger.Machine, h banger.Handles, _ bool) (banger.Handles, error) {
	return h, nil
}

func (vmm) Clear(banger.Machine, banger.Handles) error { return nil }

func newMachine(t *testing.T) banger.Machine {
	t.Helper()
	dir := filepath.Join(t.TempDir(), id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return banger.Machine{ID: id, Dir: dir}
}

// start runs a copy of this program in a directory, as a program of that name, until
// the test's end.
func start(t *testing.T, dir, name string, args ...string) banger.Process {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(program, self, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func launched(t *testing.T, m banger.Machine, argv ...string) {
	t.Helper()
	b, err := json.Marshal(shim.Config{ID: m.ID, Dir: m.Dir, Argv: argv})
	if err == nil {
		err = os.WriteFile(filepath.Join(m.Dir, shim.ConfigFile), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A VMM is the machine's by where it works and by its program, or, where what was
// launched has become a program of another name, by all the arguments it was given.
// Nothing else is.
func TestRecognized(t *testing.T) {
	for what, c := range map[string]struct {
		program   string
		args      []string
		elsewhere bool
		is        bool
	}{
		"the hypervisor":                    {"testvisor-9", []string{"--vm", "banger-" + id}, false, true},
		"of another machine":                {"testvisor-9", []string{"--vm", "banger-ba9876543210"}, false, false},
		"of no machine of ours":             {"testvisor-9", []string{"--vm", id}, false, false},
		"of the same name, elsewhere":       {"testvisor-9", []string{"--vm", "banger-" + id}, true, false},
		"wrapped":                           {".testvisor-wrapped", []string{"--vm", "banger-" + id, "--more"}, false, true},
		"wrapped, with arguments before":    {".testvisor-wrapped", []string{"--vm", "banger-" + id, "-L", "x", "--vm", "banger-" + id, "--more"}, false, true},
		"wrapped, elsewhere":                {".testvisor-wrapped", []string{"--vm", "banger-" + id, "--more"}, true, false},
		"another program's, not so started": {"debugger", []string{"--vm", "banger-" + id, "--less"}, false, false},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMachine(t)
			launched(t, m, "/bin/wrapper", "--vm", "banger-"+id, "--more")
			dir := m.Dir
			if c.elsewhere {
				dir = t.TempDir()
			}
			p := start(t, dir, c.program, c.args...)
			s := machine.New(vmm{}, "/no/banger-shim")
			for _, saved := range []banger.Process{{}, p} {
				got, alive, err := s.Adopt(t.Context(), m, banger.Handles{VMM: saved})
				if alive != c.is || alive && got.VMM != p {
					t.Errorf("Adopt(%+v): %+v, alive %v, %v", saved, got, alive, err)
				}
			}
			var owned []string
			program := s.Program()
			for s := range proc.All(program.Likely) {
				if id, ours := program.VM(s, filepath.Dir(m.Dir)); ours && s.Process == p {
					owned = append(owned, id)
				}
			}
			if (len(owned) == 1 && owned[0] == id) != c.is {
				t.Errorf("as seen without a machine: %q", owned)
			}
			if left, err := s.Kill(t.Context(), m, banger.Handles{VMM: p}); err != nil || !left.Empty() {
				t.Errorf("Kill left %+v: %v", left, err)
			}
			if proc.Alive(p) == c.is {
				t.Errorf("after Kill it lives: %v", !c.is)
			}
		})
	}
}

// A directory that was reached by a link, or removed beneath a VMM, is its own still.
func TestRecognizedByPlace(t *testing.T) {
	for what, change := range map[string]func(m *banger.Machine) error{
		"by a link": func(m *banger.Machine) error {
			link := filepath.Join(t.TempDir(), "link")
			defer func() { m.Dir = filepath.Join(link, id) }()
			return os.Symlink(filepath.Dir(m.Dir), link)
		},
		"removed": func(m *banger.Machine) error { return os.RemoveAll(m.Dir) },
		"removed, by a link": func(m *banger.Machine) error {
			link := filepath.Join(t.TempDir(), "link")
			defer func() { m.Dir = filepath.Join(link, id) }()
			if err := os.Symlink(filepath.Dir(m.Dir), link); err != nil {
				return err
			}
			return os.RemoveAll(m.Dir)
		},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMachine(t)
			p := start(t, m.Dir, "testvisor", "--vm", "banger-"+id)
			if err := change(&m); err != nil {
				t.Fatal(err)
			}
			s := machine.New(vmm{}, "/no/banger-shim")
			if got, alive, err := s.Adopt(t.Context(), m, banger.Handles{}); !alive || got.VMM != p {
				t.Errorf("%+v, alive %v, %v", got, alive, err)
			}
		})
	}
}

// Two notice at once that the shim is dead. One puts another in its place, which sees
// the VM end and is gone; then the other's comes too late, and that is no error.
func TestEndSeenByAnothersShim(t *testing.T) {
	m := newMachine(t)
	p := start(t, m.Dir, "testvisor", "--vm", "banger-"+id)
	s := machine.New(vmm{func() int {
		if err := os.WriteFile(filepath.Join(m.Dir, shim.ExitFile), []byte(`{"kind":"poweroff","status":0}`), 0o600); err != nil {
			t.Error(err)
		}
		return p.PID
	}}, "/no/banger-shim")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if exit, err := s.Wait(ctx, m, banger.Handles{}); err != nil || exit.Kind != banger.ExitPoweroff {
		t.Errorf("%+v, %v", exit, err)
	}
}

// A machine that runs isn't started over: it goes on, and nothing of it is cleared.
func TestLaunchOfARunningMachine(t *testing.T) {
	m := newMachine(t)
	p := start(t, m.Dir, "testvisor", "--vm", "banger-"+id)
	s := machine.New(vmm{}, "/no/banger-shim")
	_, err := s.Launch(t.Context(), m, machine.Launch{Prepare: func() (shim.Config, error) {
		t.Error("it was prepared")
		return shim.Config{}, os.ErrInvalid
	}})
	if banger.CodeOf(err) != banger.CodeConflict || !proc.Alive(p) {
		t.Errorf("error %v, want code %q; the VMM lives: %v", err, banger.CodeConflict, proc.Alive(p))
	}
}

func TestCheckMemory(t *testing.T) {
	path, m := filepath.Join(t.TempDir(), "ram"), banger.Machine{MemoryMiB: 1}
	if err := machine.CheckMemory(path, m); err == nil {
		t.Error("a file that isn't there is memory")
	}
	for size, want := range map[int]banger.Code{1 << 20: "", 1<<20 - 1: banger.CodeInvalid, 0: banger.CodeInvalid} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := machine.CheckMemory(path, m); banger.CodeOf(err) != want {
			t.Errorf("%d bytes: %v, want code %q", size, err, want)
		}
	}
}
