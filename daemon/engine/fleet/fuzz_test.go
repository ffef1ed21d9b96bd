package fleet_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/daemon/engine/fleet"
)

// Whatever handles.json holds, it is this VM's, of this run and of this boot of the
// host, or it isn't taken; and what is taken is what writing it again gives.
func FuzzHandles(f *testing.F) {
	const id, boot = "0123456789ab", "a-boot"
	whole, err := json.Marshal(fleet.Scratch{VM: id, Boots: 3, Handles: banger.Handles{VMM: banger.Process{PID: 7, StartTime: 9, BootID: boot}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(bytes.Replace(whole, []byte(boot), []byte("another"), 1))
	f.Add([]byte("null"))
	if released, err := os.ReadFile("../testdata/released/handles-1.json"); err == nil {
		f.Add(released)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "handles.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		vm := banger.VM{ID: id, Boots: 3}
		h, err := fleet.ReadScratch(dir, vm, boot)
		if err != nil {
			return
		}
		var said fleet.Scratch
		if err := json.Unmarshal(data, &said); err != nil || said.VM != id || said.Boots != 3 || h.VMM.BootID != boot {
			t.Fatalf("taken: %q: %+v, %v", data, said, err)
		}
		again, err := json.Marshal(fleet.Scratch{VM: id, Boots: 3, Handles: h})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "handles.json"), again, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > 64<<10 {
			return // more than is read of such a file
		}
		second, err := fleet.ReadScratch(dir, vm, boot)
		third, merr := json.Marshal(fleet.Scratch{VM: id, Boots: 3, Handles: second})
		if err != nil || merr != nil || !bytes.Equal(again, third) {
			t.Errorf("%q, written and read again: %q, %v, %v", again, third, err, merr)
		}
	})
}
