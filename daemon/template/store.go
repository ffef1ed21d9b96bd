// Package template keeps templates: frozen guests that machines are restored
// from instead of booted. It owns their files, when one is made, which one fits
// a machine, and when one is no longer trusted or wanted.
//
// A template is published by one rename, so that there is a whole one or none;
// what a dead maker left behind is ended and removed at the next Open. One whose
// files aren't what they were when it was made is removed, never used. Templates
// are a cache: whatever goes wrong with them, a machine can always be booted.
//
// It refuses to know how a guest is frozen and restored (banger.Capturer does),
// and what a VM is.
package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	unused        = 30 * 24 * time.Hour // after which a template goes
	maxFailures   = 3                   // of one kind, before no more are made of it
	checkEvery    = 100 * time.Millisecond
)

// Store is the templates of one user. Its exported fields are set before Open
// and never change.
type Store struct {
	Dir         string // its own, in the cache
	Hypervisors map[string]banger.Hypervisor
	NewID       func() string // 12 hex digits, never the same twice
	Now         func() time.Time
	Log         *slog.Logger
	Off         bool // nothing is restored, nothing made unless asked for

	Bytes  int64         // most that all may take on disk; 0: 4 GiB
	Freeze time.Duration // until a guest must be frozen; 0: 90 s
	Quiet  time.Duration // how long the host must have been idle before one is made; 0: 1 s

	live
}

// live is what a Store knows while it lives.
type live struct {
	making sync.Mutex // one is made at a time

	mu       sync.Mutex      // guards what follows
	checked  map[string]bool // ids of those whose files were read and compared in this life
	failures map[string]int  // by kind
	wanted   []want
	wake     chan struct{}
	boots    map[string]bool // boot ids restored guests have reported
}

// want is a kind of machine that was booted for lack of a template.
type want struct {
	kind string
	Subject
}

// Subject is what a template is made of.
type Subject struct {
	Hypervisor string // driver name
	Kernel     string // kernel id
	Machine    banger.Machine
	Image      *Image // nil: it is frozen before it has one
}

// Image is what an image template has besides.
type Image struct {
	Name, ID string
	DiskMiB  int
	Disks    banger.Disks
	Identity guest.Identity // its makeshift one
	After    string         // a shell's command to be run in it; empty: none
}

// Names in Store.Dir and in a template's directory.
const (
	makingPrefix = ".making-"
	lockName     = "lock"
	manifestName = "template.json"
)

// manifest is template.json: what the template is, and what its files were when
// it was made. Its modification time is when the template was last used.
type manifest struct {
	banger.Template
	Kind  string          `json:"kind"`
	Files map[string]file `json:"files"`
}

// Open removes what makers that died have left, and what nobody uses any more.
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

// takeBack ends what a dead maker had begun. One that lives has its lock: it may
// be another daemon's of the same user.
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
	return w.clear(ctx, s.Hypervisors)
}

// all returns what is published, the last used first. What can't be read is none.
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

// idDigits is how much of a kind makes an id.
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

// remove takes a template away. Guests that were restored from it have its
// memory mapped and live on.
func (s *Store) remove(id string) error {
	s.mu.Lock()
	delete(s.checked, id)
	s.mu.Unlock()
	// Not half a template under its name for one moment.
	gone := filepath.Join(s.Dir, makingPrefix+s.NewID())
	if err := os.Rename(s.dir(id), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

// prune removes what is beyond the bounds, the longest unused first, and what
// the template m took the place of. m itself stays.
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

// like is what a template is for, without what tells one from its successor.
func like(t banger.Template) banger.Template {
	return banger.Template{Hypervisor: t.Hypervisor, Kernel: t.Kernel, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, Net: t.Net, Image: t.Image, DiskMiB: t.DiskMiB}
}

// Templates implements banger.Templates.
func (s *Store) Templates(context.Context) ([]banger.Template, error) {
	list := []banger.Template{}
	for _, m := range s.all() {
		list = append(list, m.Template)
	}
	return list, nil
}

// DeleteTemplate implements banger.Templates.
func (s *Store) DeleteTemplate(_ context.Context, ref string) error {
	var found []string
	for _, m := range s.all() {
		if m.ID == ref || len(ref) >= 4 && strings.HasPrefix(m.ID, ref) {
			found = append(found, m.ID)
		}
	}
	switch len(found) {
	case 0:
		return banger.Errorf(banger.CodeNotFound, "no template %q", ref).WithHint("banger template list shows all")
	case 1:
		return s.remove(found[0])
	}
	return banger.Errorf(banger.CodeConflict, "%q names %d templates", ref, len(found)).WithHint("use more digits of the id")
}
