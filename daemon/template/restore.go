package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/guest"
)

// fit returns the template of a kind if its files are unchanged, else it removes it.
func (s *Store) fit(kind string) (manifest, error) {
	id := kind[:idDigits]
	m, err := s.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return m, banger.Errorf(banger.CodeNotFound, "there was no template for its kernel, CPUs and memory yet")
	}
	if err == nil && m.Kind != kind {
		err = errors.New("it is of another kind")
	}
	if err == nil {
		s.mu.Lock()
		checked := s.checked[id]
		s.mu.Unlock()
		// Read all of it once in a daemon's life, as a disk or a power cut may have damaged it.
		// After that a write would show in a file's time.
		if err = s.compare(m, !checked); err == nil {
			s.mu.Lock()
			s.checked[id] = true
			s.mu.Unlock()
			return m, nil
		}
	}
	return m, banger.Errorf(banger.CodeUnavailable, "the template %s was damaged and is removed: %w", id, errors.Join(err, s.remove(id)))
}

// Restore starts a machine from the template of its kind. An error says, for a person, why
// the machine must be booted; nothing of it runs then.
func (s *Store) Restore(ctx context.Context, hypervisor string, m banger.Machine) (h banger.Handles, id string, err error) {
	if s.Off {
		return h, "", banger.Errorf(banger.CodeUnavailable, "warm starts are off in config.toml")
	}
	_, c, err := s.capturer(hypervisor)
	if err == nil && onHost(m) {
		err = errOnHost
	}
	if err != nil {
		return h, "", err
	}
	kind, err := c.Kind(ctx, m)
	if err != nil {
		return h, "", err
	}
	t, err := s.fit(kind)
	if err != nil {
		return h, "", err
	}
	if h, err = c.Restore(ctx, m, s.dir(t.ID)); err != nil {
		if ctx.Err() == nil {
			err = s.Reject(t.ID, err)
		}
		return h, "", err
	}
	s.used(t.ID)
	return h, t.ID, nil
}

func (s *Store) used(id string) {
	now := s.Now()
	_ = os.Chtimes(filepath.Join(s.dir(id), manifestName), now, now) // on an error it is only pruned earlier
}

// Reject removes a template whose guest failed because of why, and returns an error that
// says so. If the guest was killed meanwhile, the template stays.
func (s *Store) Reject(id string, why error) error {
	if errors.Is(why, banger.ErrKilled) {
		return fmt.Errorf("restoring from template %s was interrupted: %w", id, why)
	}
	m, err := s.read(id)
	if err == nil {
		s.mu.Lock()
		s.failures[m.Kind]++
		s.mu.Unlock()
	}
	why = errors.Join(why, s.remove(id))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the template %s was removed meanwhile: %w", id, why)
	}
	return fmt.Errorf("the template %s didn't work and is removed: %w", id, why)
}

// clockSlack is how far a renewed clock may be from the host's, which may be set meanwhile.
// Beyond that it is taken for the template's.
const clockSlack = 5 * time.Second

// maxBoots bounds how many boot ids are remembered.
const maxBoots = 4096

// Renewed checks what a restored guest reports. It must have made everything new. What
// programs see in the guest is compared with id, so that the agent's word isn't needed. Its
// clock must lie between since and now, as a slow host may get the report late. The boot id
// must not be another guest's: the kernel makes it of its random numbers, so two alike mean
// that those weren't new.
func (s *Store) Renewed(template string, id guest.Identity, since time.Time, r guest.Ready) error {
	old := map[string]bool{
		guest.RenewClock:     r.Seen.Time.Before(since.Add(-clockSlack)) || r.Seen.Time.After(s.Now().Add(clockSlack)),
		guest.RenewHostname:  r.Seen.Hostname != id.Hostname,
		guest.RenewMachineID: r.Seen.MachineID != id.MachineID,
		guest.RenewNetwork:   id.Net != nil && !strings.EqualFold(r.Seen.MAC, id.Net.MAC),
	}
	want := guest.Renewals()
	if m, err := s.read(template); err == nil && m.Image != "" {
		want = append(want, guest.RenewHostKeys)
	}
	var missing []string
	for _, name := range want {
		if old[name] || !slices.Contains(r.Renewed, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return banger.Errorf(banger.CodeUnavailable, "the restored guest shares with others: %s", strings.Join(missing, ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boots[r.BootID] || r.BootID == "" {
		return banger.Errorf(banger.CodeUnavailable, "the restored guest shares with others: %s, %s", guest.RenewBootID, guest.RenewRandom)
	}
	if len(s.boots) >= maxBoots {
		clear(s.boots)
	}
	s.boots[r.BootID] = true
	return nil
}
