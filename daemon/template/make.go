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
	"banger/host/hostfs"
)

// workshop is where one template is made. Its directory is made first and removed last, so
// it shows that there may be something to clear.
type workshop struct {
	id, dir string
}

func (s *Store) workshop(id string) workshop {
	return workshop{id, filepath.Join(s.Dir, makingPrefix+id)}
}

// lock makes the directory, and locks it for as long as this process lives. The lock's file says
// on which hypervisor the machine is.
func (w workshop) lock() (*os.File, error) {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	return hostfs.TryOpenLocked(filepath.Join(w.dir, lockName))
}

// machine returns a temporary machine of an original's kind.
func (w workshop) machine(orig Original) (banger.Machine, error) {
	m := orig.Machine
	m.ID, m.Dir, m.RAMDir = w.id, filepath.Join(w.dir, "machine"), w.dir
	for _, dir := range []string{m.Dir, w.out()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return m, err
		}
	}
	m.Drives = slices.Clone(m.Drives)
	if orig.Image != nil {
		return m, nil
	}
	// Empty drives, which the guest doesn't look at: no VM's data gets into the template.
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

// clear ends the machine and removes the directory.
func (w workshop) clear(ctx context.Context, hypervisors map[string]banger.Hypervisor) error {
	m := banger.Machine{ID: w.id, Dir: filepath.Join(w.dir, "machine"), RAMDir: w.dir}
	for name, hv := range hypervisors {
		if left, err := hv.Kill(ctx, m, banger.Handles{}); err != nil {
			return fmt.Errorf("making a template left %[2]v of %[1]s: %[3]w", name, left, err)
		}
	}
	return os.RemoveAll(w.dir)
}

// Make makes the template of an original's kind, or returns the one there is.
func (s *Store) Make(ctx context.Context, orig Original, p banger.Progress) (t banger.Template, err error) {
	hv, capturer, err := s.capturer(orig.Hypervisor)
	if err == nil && onHost(orig.Machine) {
		err = errOnHost
	}
	if err != nil {
		return t, err
	}
	kind, err := capturer.Kind(ctx, orig.Machine)
	if err != nil {
		return t, err
	}
	kind = orig.kind(kind)
	s.making.Lock()
	defer s.making.Unlock()
	if m, err := s.fit(kind); err == nil && orig.Image == nil {
		return m.Template, nil
	}
	began := s.Now()
	w := s.workshop(s.NewID())
	lock, err := w.lock()
	if err != nil {
		return t, err
	}
	defer lock.Close()
	if _, err := lock.WriteString(orig.Hypervisor); err != nil {
		return t, errors.Join(full(s.Dir), err, os.RemoveAll(w.dir))
	}
	defer func() {
		// Even if ctx has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = errors.Join(err, w.clear(ctx, map[string]banger.Hypervisor{orig.Hypervisor: hv}))
	}()
	if err := s.freeze(ctx, hv, w, orig, p); err != nil {
		return t, errors.Join(full(s.Dir), err)
	}
	tell(p, "template", "")
	m := manifest{Kind: kind, Template: banger.Template{
		ID: kind[:idDigits], Hypervisor: orig.Hypervisor, Kernel: orig.Kernel,
		VCPU: orig.Machine.VCPU, MemoryMiB: orig.Machine.MemoryMiB, Net: orig.Machine.Net.Mode,
		Created: s.Now(), Used: s.Now(), TookMS: s.Now().Sub(began).Milliseconds(),
	}}
	if i := orig.Image; i != nil {
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

// undoTime is how long clearing may take.
const undoTime = time.Minute

// full returns an error if a filesystem is full. Then a VMM is killed as soon as its guest
// uses a new page of its memory file.
func full(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Bavail*uint64(st.Bsize) >= fullBytes {
		return nil
	}
	return banger.Errorf(banger.CodeUnavailable, "the filesystem of %s is full", dir).
		WithHint("a template takes about 130 MiB; without templates VMs are booted")
}

// fullBytes: a filesystem with less free counts as full.
const fullBytes = 1 << 20

// freeze boots a machine of the kind and captures it.
func (s *Store) freeze(ctx context.Context, hv banger.Hypervisor, w workshop, orig Original, p banger.Progress) error {
	if orig.Image != nil {
		return freezeImage(ctx, hv, w, orig, s.Freeze, p)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Freeze)
	defer cancel()
	m, err := w.machine(orig)
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

// capture freezes the guest and captures the machine.
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

// end returns how a machine ended as an error, nil if it still runs.
func end(ctx context.Context, hv banger.Hypervisor, m banger.Machine, h banger.Handles) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	exit, err := hv.Wait(ctx, m, h)
	if err != nil {
		return nil // it runs: the error is only that it didn't answer
	}
	return fmt.Errorf("it ended: %s", exit.Detail)
}

// endTime is how long it may take, after a guest stopped answering, until its end is known.
const endTime = 100 * time.Millisecond

func (s *Store) capturer(name string) (banger.Hypervisor, banger.Capturer, error) {
	hv := s.Hypervisors[name]
	c, ok := hv.(banger.Capturer)
	if !ok {
		return nil, nil, banger.Errorf(banger.CodeUnavailable, "machines of the hypervisor %q can't be restored from templates", name)
	}
	return hv, c, nil
}

// onHost reports whether a machine's network is a device of the host. A temporary machine
// has none, and whether such a guest could be restored was never tried.
func onHost(m banger.Machine) bool {
	return m.Net.Mode != banger.NetUser && m.Net.Mode != banger.NetNone
}

var errOnHost = banger.Errorf(banger.CodeInvalid, "there are no templates for VMs on a network of the host")

func tell(p banger.Progress, stage, message string) {
	if p != nil {
		p(banger.Event{Stage: stage, Message: message, Time: time.Now()})
	}
}

// Want notes that a machine was booted since there was no template. One is made when the
// host is idle.
func (s *Store) Want(ctx context.Context, hypervisor, kernel string, m banger.Machine) {
	orig := Original{Hypervisor: hypervisor, Kernel: kernel, Machine: m}
	_, c, err := s.capturer(orig.Hypervisor)
	if err != nil || s.Off || onHost(m) {
		return
	}
	kind, err := c.Kind(ctx, orig.Machine)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.ContainsFunc(s.wanted, func(w want) bool { return w.kind == kind })
	if known || s.failures[kind] >= maxFailures || len(s.wanted) >= maxWanted {
		return
	}
	s.wanted = append(s.wanted, want{kind, orig})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maxWanted bounds how many templates wait to be made.
const maxWanted = 8

// Run makes wanted templates whenever the host is idle, until ctx ends.
func (s *Store) Run(ctx context.Context, idle func() bool) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		for s.next() != nil && s.quiet(ctx, idle) {
			w := s.next()
			t, err := s.Make(ctx, w.Original, nil)
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

func (s *live) next() *want {
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
