package qemu_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/vmm/qemu"
	"banger/vmm/shim"
)

// A VM's memory may lie where an earlier build or configuration put it. What its VMM
// was told is looked at, and only the VM's own name is removed.
func TestMemoryElsewhere(t *testing.T) {
	for name, removed := range map[string]bool{"banger-a1.ram": true, "banger-a2.ram": false, "notes": false} {
		m := banger.Machine{ID: "a1", Dir: t.TempDir(), RAMDir: t.TempDir()}
		file := filepath.Join(t.TempDir(), "with, a comma", name)
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		d := qemu.New(qemu.Config{Shim: "/no/banger-shim", Binary: program(t, "9.0.0")})
		cfg, err := json.Marshal(shim.Config{ID: m.ID, Dir: m.Dir, Argv: append([]string{"/bin/qemu"}, qemu.MemoryArgs(m, file)...)})
		if err == nil {
			err = os.WriteFile(filepath.Join(m.Dir, shim.ConfigFile), cfg, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h, err := qemu.Found(t.Context(), m); err != nil || (h.RAMFile == file) != removed {
			t.Errorf("%s: a running VMM's handles are %+v, %v", name, h, err)
		}
		if left, err := d.Kill(t.Context(), m, banger.Handles{}); err != nil || !left.Empty() {
			t.Errorf("Kill left %+v: %v", left, err)
		}
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) != removed {
			t.Errorf("%s after Kill: %v", name, err)
		}
	}
}
