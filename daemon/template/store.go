// Package template keeps templates: frozen guests from which machines are restored instead
// of booted. It owns their files, and decides when one is made, which one fits a machine,
// and when one is removed.
//
// A template is published by one rename, so it is complete or not there. If the daemon dies
// while it makes one, the next Open removes what is left. A template whose files have
// changed is removed, never used. Templates are a cache: a machine can always be booted
// instead.
//
// It knows nothing of how a guest is frozen and restored (banger.Capturer does), or of what
// a VM is. Sizes are in bytes.
package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/guest"
)

// Defaults of a Store's bounds.
const (
	defaultBytes  = 4 << 30
	defaultFreeze = 90 * time.Second // boot and freeze: emulation on a busy host
	defaultQuiet  = time.Second
	unused        = 30 * 24 * time.Hour // a template unused for this long is removed
	maxFailures   = 3                   // after so many failures no template of that kind is made
	checkEvery    = 100 * time.Millisecond
)

// Store is the templates of one user. Its exported fields are set before Open
// and never change.
type Store struct {
	Dir         string // a directory of its own, in the cache
	Hypervisors map[string]banger.Hypervisor
	NewID       func() string // 12 hex digits, never the same twice
	Now         func() time.Time
	Log         *slog.Logger
	Off         bool // nothing is restored, and templates are made only when asked for

	Bytes  int64         // how much all may take on disk; 0: 4 GiB
	Freeze time.Duration // until a guest must be frozen; 0: 90 s
	Quiet  time.Duration // how long the host must have been idle before one is made; 0: 1 s

	live
}

// live is the state that a Store has in memory only.
type live struct {
	making sync.Mutex // held while a template is made

	mu       sync.Mutex      // guards what follows
	checked  map[string]bool // ids of those whose files were read and compared in this life
	failures map[string]int  // by kind
	wanted   []want
	wake     chan struct{}
	boots    map[string]bool // boot ids restored guests have reported
}

// want is a machine that was booted since there was no template.
type want struct {
	kind string
	Original
}

// Original is what a template is made of.
type Original struct {
	Hypervisor string // driver name
	Kernel     string // kernel id
	Machine    banger.Machine
	Image      *Image // nil: it is frozen before it has one
}

// Image is the part of an Original that only image templates have.
type Image struct {
	Name, ID string
	DiskMiB  int
	Disks    banger.Disks
	Identity guest.Identity // a temporary one
	After    string         // a shell command to run in the guest; empty: none
}

// Names in Store.Dir and in a template's directory.
const (
	makingPrefix = ".making-"
	lockName     = "lock"
	manifestName = "template.json"
)

// manifest is template.json: the template, and its files as they were when it was made. Its
// modification time is when the template was last used.
type manifest struct {
	banger.Template
	Kind  string          `json:"kind"`
	Files map[string]file `json:"files"`
}

// Open removes what is left of templates whose making was interrupted, and templates that
// weren't used for long.
func (s *Store) Open(ctx context.Context) error {
	s.Bytes, s.Freeze, s.Quiet = cmp.Or(s.Bytes, defaultBytes), cmp.Or(s.Freeze, defaultFreeze), cmp.Or(s.Quiet, defaultQuiet)
	s.checked, s.failures, s.boots = map[string]bool{}, map[string]int{}, map[string]bool{}
	s.wake = make(chan struct{}, 1)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), makingPrefix); ok {
			errs = append(errs, s.takeBack(ctx, id))
		}
	}
	for _, m := range s.all() {
		if s.Now().Sub(m.Used) > unused {
			errs = append(errs, s.remove(m.ID))
		}
	}
	return errors.Join(errs...)
}

// takeBack removes what is left of an interrupted making. It leaves one whose lock is held:
// another daemon of the same user is making it.
func (s *Store) takeBack(ctx context.Context, id string) error {
	w := s.workshop(id)
	lock, err := w.lock()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	on, err := io.ReadAll(io.LimitReader(lock, 64))
	if err != nil {
		return err
	}
	hypervisors := s.Hypervisors // an older build didn't say on which it is
	if hv, ok := hypervisors[string(on)]; ok {
		hypervisors = map[string]banger.Hypervisor{string(on): hv} // others may fail at what this one's VMM has
	}
	return w.clear(ctx, hypervisors)
}

// all returns the published templates, the last used first, without those that can't be
// read.
func (s *Store) all() []manifest {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil
	}
	var list []manifest
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if m, err := s.read(e.Name()); err == nil {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b manifest) int {
		return cmp.Or(b.Used.Compare(a.Used), strings.Compare(a.ID, b.ID))
	})
	return list
}

// idDigits is how many digits of a kind make an id.
const idDigits = 12

// read reads the manifest of a template.
func (s *Store) read(id string) (manifest, error) {
	path := filepath.Join(s.Dir, id, manifestName)
	var m manifest
	st, err := os.Lstat(path)
	if err != nil {
		return m, err
	}
	if st.Size() > maxManifest || !st.Mode().IsRegular() {
		return m, fmt.Errorf("%s is no manifest", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if m.ID != id || !strings.HasPrefix(m.Kind, id) || len(id) != idDigits || len(m.Files) == 0 {
		return m, fmt.Errorf("%s is of another template", path)
	}
	m.Used = st.ModTime()
	return m, nil
}

const maxManifest = 64 << 10

func (s *Store) dir(id string) string { return filepath.Join(s.Dir, id) }

// remove removes a template. Guests that were restored from it go on: they have its memory
// mapped.
func (s *Store) remove(id string) error {
	s.mu.Lock()
	delete(s.checked, id)
	s.mu.Unlock()
	// Rename it first, so that there is never half a template under its name.
	gone := filepath.Join(s.Dir, makingPrefix+s.NewID())
	if err := os.Rename(s.dir(id), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

// prune removes templates that m replaces, and those beyond the bounds, the longest unused
// first. m itself stays.
func (s *Store) prune(m manifest) error {
	var errs []error
	left := s.Bytes - m.Bytes
	for _, other := range s.all() {
		if other.ID == m.ID {
			continue
		}
		left -= other.Bytes
		if same := like(other.Template); left < 0 || same == like(m.Template) {
			errs = append(errs, s.remove(other.ID))
			left += other.Bytes
		}
	}
	return errors.Join(errs...)
}

// like returns a template without the fields in which it may differ from one that replaces
// it.
func like(t banger.Template) banger.Template {
	return banger.Template{Hypervisor: t.Hypervisor, Kernel: t.Kernel, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, Net: t.Net, Image: t.Image, DiskMiB: t.DiskMiB}
}

// Templates implements banger.TemplateService.
func (s *Store) Templates(context.Context) ([]banger.Template, error) {
	list := []banger.Template{}
	for _, m := range s.all() {
		list = append(list, m.Template)
	}
	return list, nil
}

// Template implements banger.TemplateService.
func (s *Store) Template(_ context.Context, ref string) (banger.Template, error) {
	var found []banger.Template
	for _, m := range s.all() {
		if m.ID == ref || len(ref) >= 4 && strings.HasPrefix(m.ID, ref) {
			found = append(found, m.Template)
		}
	}
	switch len(found) {
	case 0:
		return banger.Template{}, banger.Errorf(banger.CodeNotFound, "no template %q", ref).WithHint("`banger template list` lists the templates")
	case 1:
		return found[0], nil
	}
	return banger.Template{}, banger.Errorf(banger.CodeConflict, "%q names %d templates", ref, len(found)).WithHint("use more digits of the id")
}

// DeleteTemplate implements banger.TemplateService.
func (s *Store) DeleteTemplate(ctx context.Context, ref string) error {
	t, err := s.Template(ctx, ref)
	if err != nil {
		return err
	}
	return s.remove(t.ID)
}
