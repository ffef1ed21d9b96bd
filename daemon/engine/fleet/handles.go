package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger"
	"banger/host/hostfs"
)

// Scratch is handles.json: a copy of the handles for the next daemon. It has the VM's id and
// the number of the run, so that another VM's file, or that of an earlier run, isn't used.
type Scratch struct {
	VM      string         `json:"vm"`
	Boots   int            `json:"boots"`
	Handles banger.Handles `json:"handles"`
}

const (
	scratchName = "handles.json"
	scratchMax  = 64 << 10
)

// Held is what the VM holds on its host.
func (t *Turn) Held() banger.Handles {
	t.fleet.mu.Lock()
	defer t.fleet.mu.Unlock()
	return t.held
}

// Keep sets what the VM holds, in memory only.
func (t *Turn) Keep(h banger.Handles) {
	t.fleet.mu.Lock()
	defer t.fleet.mu.Unlock()
	t.held = h
}

// Hold sets what the VM holds, in memory and in the scratch file; the store gets it with
// the next commit. If the file can't be written, that is only logged.
func (t *Turn) Hold(h banger.Handles) {
	t.Keep(h)
	path := filepath.Join(t.fleet.VMDir(t.VM.ID), scratchName)
	var err error
	if h.Empty() {
		err = t.fleet.Files("unlink handles", func() error { return os.RemoveAll(path) })
	} else {
		err = t.fleet.Files("write handles", func() error {
			data, err := json.Marshal(Scratch{VM: t.VM.ID, Boots: t.VM.Boots, Handles: h})
			if err == nil {
				err = hostfs.Replace(path, data, 0o600)
			}
			return err
		})
	}
	if err != nil {
		t.fleet.Log.Warn("handles.json; a restarted daemon will use the record", "vm", t.VM.ID, "error", err)
	}
}

// recall reads what a VM held under an earlier daemon: from its scratch file if that is
// valid and of this VM, run and boot, else from the record. The driver checks it: it only
// says where to look.
func (f *Fleet) recall(r *Record) {
	switch h, err := ReadScratch(f.VMDir(r.id), r.vm, f.BootID); {
	case err == nil:
		r.held = h
	case !errors.Is(err, fs.ErrNotExist):
		f.Log.Warn("handles.json; using the record", "vm", r.id, "error", err)
	}
}

// ReadScratch reads the handles.json of a VM's directory.
func ReadScratch(dir string, vm banger.VM, boot string) (banger.Handles, error) {
	none := banger.Handles{}
	f, err := os.Open(filepath.Join(dir, scratchName))
	if err != nil {
		return none, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, scratchMax))
	if err != nil {
		return none, err
	}
	var s Scratch
	if err := json.Unmarshal(raw, &s); err != nil {
		return none, fmt.Errorf("parse %s: %w", f.Name(), err)
	}
	switch {
	case s.VM != vm.ID:
		return none, fmt.Errorf("%s is of vm %q", f.Name(), s.VM)
	case s.Boots != vm.Boots:
		return none, fmt.Errorf("%s is of run %d, the record of run %d", f.Name(), s.Boots, vm.Boots)
	case boot != "" && s.Handles.VMM.BootID != boot:
		return none, fmt.Errorf("%s is of another boot of this host", f.Name())
	}
	return s.Handles, nil
}
