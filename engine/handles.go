package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger"
)

// scratch is handles.json: a copy of the cache for the next daemon. It says
// whose it is and of which run, so that a file that was swapped, or that an
// earlier run left behind, isn't taken for this one's.
type scratch struct {
	VM      string         `json:"vm"`
	Boots   int            `json:"boots"`
	Handles banger.Handles `json:"handles"`
}

const (
	scratchName = "handles.json"
	scratchMax  = 64 << 10
)

func (j *job) held() banger.Handles { return j.e.seen(j.r).Held }

// keep sets what the cache says a VM holds.
func (g *registry) keep(r *record, h banger.Handles) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.held = h
}

// hold sets what the VM holds. The cache counts; the record follows with the
// next commit, and the scratch file is worth a warning when it can't be
// written, never a failed start.
func (j *job) hold(h banger.Handles) {
	j.e.keep(j.r, h)
	path := filepath.Join(j.e.dir(j.vm.ID), scratchName)
	var err error
	if h.Empty() {
		err = j.e.fs("unlink handles", func() error { return os.RemoveAll(path) })
	} else {
		err = j.e.fs("write handles", func() error {
			return replace(path, scratch{VM: j.vm.ID, Boots: j.vm.Boots, Handles: h})
		})
	}
	if err != nil {
		j.e.Log.Warn("handles.json; a restarted daemon will use the record", "vm", j.vm.ID, "error", err)
	}
}

// replace writes a file so that a reader, and a power cut, find the old one or
// the new one. Mode 0600.
func replace(path string, s scratch) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// recall rebuilds what a VM of an earlier daemon held: from its scratch file if
// that is whole, this VM's, this run's and of this boot, else from the record.
// Neither is believed: the driver verifies, these only say where to look.
func (e *Engine) recall(vm banger.VM) banger.Handles {
	h, err := readScratch(e.dir(vm.ID), vm, e.BootID)
	if err == nil {
		return h
	}
	if !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("handles.json; using the record", "vm", vm.ID, "error", err)
	}
	return vm.Held
}

func readScratch(dir string, vm banger.VM, boot string) (banger.Handles, error) {
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
	var s scratch
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
