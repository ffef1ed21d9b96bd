package template

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"banger"
	"banger/guest"
	"banger/hostfs"
)

// workshop is where one template is made. Its directory is the plan: it is there
// before anything else is, and goes last.
type workshop struct {
	id, dir string
}

func (s *Store) workshop(id string) workshop {
	return workshop{id, filepath.Join(s.Dir, makingPrefix+id)}
}

// lock makes the directory, and this maker its owner while it lives.
func (w workshop) lock() (*os.File, error) {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(w.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// machine is a throw-away one of a subject's kind.
func (w workshop) machine(sub Subject) (banger.Machine, error) {
	m := sub.Machine
	m.ID, m.Dir, m.RAMDir = w.id, filepath.Join(w.dir, "machine"), w.dir
	for _, dir := range []string{m.Dir, w.out()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return m, err
		}
	}
	m.Drives = slices.Clone(m.Drives)
	if sub.Image != nil {
		return m, nil
	}
	// Drives nobody will look at: nothing of any VM is within the template's reach.
	for i := range m.Drives {
		m.Drives[i].Path = filepath.Join(m.Dir, fmt.Sprintf("drive%d", i))
		if err := os.WriteFile(m.Drives[i].Path, make([]byte, 1<<20), 0o600); err != nil {
			return m, err
		}
	}
	if m.Net.MAC != "" {
		m.Net.MAC = "02:00:00:00:00:01"
	}
	return m, nil
}

func (w workshop) out() string { return filepath.Join(w.dir, "out") }

// clear ends whatever runs of it and removes the directory.
func (w workshop) clear(ctx context.Context, hypervisors map[string]banger.Hypervisor) error {
	m := banger.Machine{ID: w.id, Dir: filepath.Join(w.dir, "machine"), RAMDir: w.dir}
	for name, hv := range hypervisors {
		if left, err := hv.Kill(ctx, m, banger.Handles{}); err != nil {
			return fmt.Errorf("%s left %+v of the making of a template: %w", name, left, err)
		}
	}
	return os.RemoveAll(w.dir)
}

// Make makes the template of a subject's kind, or returns the one there is.
func (s *Store) Make(ctx context.Context, sub Subject, p banger.Progress) (t banger.Template, err error) {
	hv, capturer, err := s.capturer(sub.Hypervisor)
	if err == nil && onHost(sub.Machine) {
		err = errOnHost
	}
	if err != nil {
		return t, err
	}
	kind, err := capturer.Kind(ctx, sub.Machine)
	if err != nil {
		return t, err
	}
	kind = sub.kind(kind)
	s.making.Lock()
	defer s.making.Unlock()
	if m, err := s.fit(kind); err == nil && sub.Image == nil {
		return m.Template, nil
	}
	began := s.Now()
	w := s.workshop(s.NewID())
	lock, err := w.lock()
	if err != nil {
		return t, err
	}
	defer lock.Close()
	defer func() {
		// Whatever became of who asked.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = errors.Join(err, w.clear(ctx, map[string]banger.Hypervisor{sub.Hypervisor: hv}))
	}()
	if err := s.freeze(ctx, hv, w, sub, p); err != nil {
		return t, errors.Join(full(s.Dir), err)
	}
	tell(p, "template", "")
	m := manifest{Kind: kind, Template: banger.Template{
		ID: kind[:idDigits], Hypervisor: sub.Hypervisor, Kernel: sub.Kernel,
		VCPU: sub.Machine.VCPU, MemoryMiB: sub.Machine.MemoryMiB, Net: sub.Machine.Net.Mode,
		Created: s.Now(), Used: s.Now(), TookMS: s.Now().Sub(began).Milliseconds(),
	}}
	if i := sub.Image; i != nil {
		m.Image, m.ImageID, m.DiskMiB, m.After = i.Name, i.ID, i.DiskMiB, i.After
	}
	if m.Files, m.Bytes, err = surveyAll(w.out()); err != nil {
		return t, err
	}
	if err := errors.Join(writeManifest(w.out(), m), s.remove(m.ID)); err != nil {
		return t, err
	}
	if err := os.Rename(w.out(), s.dir(m.ID)); err != nil {
		return t, err
	}
	s.mu.Lock()
	s.checked[m.ID] = true
	s.mu.Unlock()
	return m.Template, errors.Join(hostfs.SyncDir(s.Dir), s.prune(m))
}

// An undo is given this long.
const undoTime = time.Minute

// full says of a filesystem that it is full, which ends a VMM whose guest then
// touches a page of its memory file for the first time.
func full(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Bavail*uint64(st.Bsize) >= fullBytes {
		return nil
	}
	return banger.Errorf(banger.CodeUnavailable, "the filesystem of %s is full", dir).
		WithHint("a template takes 130 MiB of it or so; VMs are booted as long as there are none")
}

// Less than this is as good as nothing.
const fullBytes = 1 << 20

// freeze boots a machine of the kind and has it captured.
func (s *Store) freeze(ctx context.Context, hv banger.Hypervisor, w workshop, sub Subject, p banger.Progress) error {
	if sub.Image != nil {
		return freezeImage(ctx, hv, w, sub, s.Freeze, p)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Freeze)
	defer cancel()
	m, err := w.machine(sub)
	if err != nil {
		return err
	}
	tell(p, "boot", "a guest to be frozen")
	h, err := hv.Start(ctx, m)
	if err != nil {
		return err
	}
	return capture(ctx, hv, m, h, w.out())
}

// capture has the guest freeze and takes it away.
func capture(ctx context.Context, hv banger.Hypervisor, m banger.Machine, h banger.Handles, dir string) error {
	c := client(hv, m)
	if err := c.Freeze(ctx); err != nil {
		return fmt.Errorf("freeze the guest: %w", errors.Join(err, end(ctx, hv, m, h)))
	}
	return hv.(banger.Capturer).Capture(ctx, m, h, dir)
}

func client(hv banger.Hypervisor, m banger.Machine) guest.Client {
	return guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return hv.Dial(ctx, m) }}
}

// end is how a machine ended, if it just has.
func end(ctx context.Context, hv banger.Hypervisor, m banger.Machine, h banger.Handles) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	exit, err := hv.Wait(ctx, m, h)
	if err != nil {
		return nil // it runs: that it didn't answer is all there is to say
	}
	return fmt.Errorf("it ended: %s", exit.Detail)
}

// How long after a guest stopped to answer its end may still be unknown.
const endTime = 100 * time.Millisecond

func (s *Store) capturer(name string) (banger.Hypervisor, banger.Capturer, error) {
	hv := s.Hypervisors[name]
	c, ok := hv.(banger.Capturer)
	if !ok {
		return nil, nil, banger.Errorf(banger.CodeUnavailable, "machines of the hypervisor %q can't be restored from templates", name)
	}
	return hv, c, nil
}

// onHost reports whether a machine has a device of the host's for its network: a
// throw-away one has none, and whether what is behind it may differ was not tried.
func onHost(m banger.Machine) bool {
	return m.Net.Mode != banger.NetUser && m.Net.Mode != banger.NetNone
}

var errOnHost = banger.Errorf(banger.CodeUnavailable, "there are no templates for VMs on a network of the host")

func tell(p banger.Progress, stage, message string) {
	if p != nil {
		p(banger.Event{Stage: stage, Message: message, Time: time.Now()})
	}
}

// Want notes that a machine was booted for lack of a template. One is made of it
// when the host is idle.
func (s *Store) Want(ctx context.Context, hypervisor, kernel string, m banger.Machine) {
	sub := Subject{Hypervisor: hypervisor, Kernel: kernel, Machine: m}
	_, c, err := s.capturer(sub.Hypervisor)
	if err != nil || s.Off || onHost(m) {
		return
	}
	kind, err := c.Kind(ctx, sub.Machine)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.ContainsFunc(s.wanted, func(w want) bool { return w.kind == kind })
	if known || s.failures[kind] >= maxFailures || len(s.wanted) >= maxWanted {
		return
	}
	s.wanted = append(s.wanted, want{kind, sub})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maxWanted bounds what waits to be made.
const maxWanted = 8

// Run makes what is wanted whenever the host is idle, until ctx ends.
func (s *Store) Run(ctx context.Context, idle func() bool) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		for s.next() != nil && s.quiet(ctx, idle) {
			w := s.next()
			t, err := s.Make(ctx, w.Subject, nil)
			s.mu.Lock()
			s.wanted = s.wanted[1:]
			if err != nil && ctx.Err() == nil {
				s.failures[w.kind]++
			}
			s.mu.Unlock()
			if err != nil {
				s.Log.Warn("no template was made", "error", err)
			} else {
				s.Log.Info("template", "id", t.ID, "took_ms", t.TookMS, "bytes", t.Bytes)
			}
		}
	}
}

func (s *Store) next() *want {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wanted) == 0 {
		return nil
	}
	return &s.wanted[0]
}

// quiet returns when the host has been idle for long enough, false when ctx ended.
func (s *Store) quiet(ctx context.Context, idle func() bool) bool {
	tick := time.NewTicker(min(checkEvery, s.Quiet))
	defer tick.Stop()
	for since := s.Now(); ; {
		if !idle() {
			since = s.Now()
		} else if s.Now().Sub(since) >= s.Quiet {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
