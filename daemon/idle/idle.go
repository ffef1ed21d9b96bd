// Package idle stops VMs that had no client, command or load for as long as the user set,
// and ends those whose time to live is over.
// Requests to a VMService pass through it, so it sees clients come and go. It asks for the
// load of VMMs, and guests for their commands and for streams that an earlier daemon handed
// out.
//
// It doesn't stop a VM whose guest can't be asked. A new daemon counts anew. Only time
// counts in which the host is awake, and changes of its clock don't matter.
package idle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/guest"
)

const (
	// busy is the share of one CPU from which on a VMM counts as busy. An idle emulated guest
	// with systemd was seen to take 0.8 %; one that starts takes more than 20 %.
	busy = 0.1
	// The time between two looks is a tenth of the shortest time without use, and at most until
	// a time to live is over, within these bounds.
	oftenest = 100 * time.Millisecond
	rarest   = time.Minute
	askTime  = 10 * time.Second // for a guest to tell of its commands
)

// Watcher is a VMService with Leases that stops unused VMs while Run runs. Its exported
// fields are set before its first use.
type Watcher struct {
	banger.VMService
	Leases banger.Leases
	Usage  func(banger.Process) (banger.Usage, error)
	After  time.Duration // how long a VM that doesn't say must be unused to be stopped; 0: for ever
	Now    func() time.Time
	Log    *slog.Logger

	mu   sync.Mutex
	vms  map[string]*vm // by id
	news chan struct{}  // see Kick
}

// New returns a Watcher without its other fields.
func New(vms banger.VMService, leases banger.Leases) *Watcher {
	return &Watcher{VMService: vms, Leases: leases, news: make(chan struct{}, 1)}
}

// Kick has VMs looked at soon, as something has happened to one. It doesn't block.
func (w *Watcher) Kick() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// vm is what is known of one VM's use. Watcher.mu guards it.
type vm struct {
	boots   int // of the run it is about
	clients int
	used    time.Time
	cpu     time.Duration // of its VMM at the last look
	looked  time.Time
}

var (
	_ banger.VMService = (*Watcher)(nil)
	_ banger.Leases    = (*Watcher)(nil)
)

// entry returns what is known of a VM. w.mu is held.
func (w *Watcher) entry(id string) *vm {
	if w.vms == nil {
		w.vms = map[string]*vm{}
	}
	v := w.vms[id]
	if v == nil {
		v = &vm{used: w.Now()}
		w.vms[id] = v
	}
	return v
}

// enter counts a client of the VM that ref names, until leave is called.
func (w *Watcher) enter(ctx context.Context, ref string) (leave func(), err error) {
	seen, err := w.VM(ctx, ref)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.entry(seen.ID)
	v.clients++
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		v.clients--
		v.used = w.Now()
	}), nil
}

// Dial opens a stream, whose client uses the VM until it is closed.
func (w *Watcher) Dial(ctx context.Context, ref string) (net.Conn, error) {
	leave, err := w.enter(ctx, ref)
	if err != nil {
		return nil, err
	}
	c, err := w.VMService.Dial(ctx, ref)
	if err != nil {
		leave()
		return nil, err
	}
	return &conn{c, leave}, nil
}

type conn struct {
	net.Conn
	leave func()
}

// SyscallConn is needed to hand over a descriptor of the stream.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}

// Close also ends the client's use of the VM.
func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// Logs is a use of the VM until the log is closed.
func (w *Watcher) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	leave, err := w.enter(ctx, ref)
	if err != nil {
		return nil, err
	}
	log, err := w.VMService.Logs(ctx, ref, follow)
	if err != nil {
		leave()
		return nil, err
	}
	return &reader{log, leave}, nil
}

type reader struct {
	io.ReadCloser
	leave func()
}

// Close also ends the client's use.
func (r *reader) Close() error {
	defer r.leave()
	return r.ReadCloser.Close()
}

// HoldVM uses the VM while it lasts.
func (w *Watcher) HoldVM(ctx context.Context, ref string, held func()) error {
	leave, err := w.enter(ctx, ref)
	if err != nil {
		return err
	}
	defer leave()
	return w.Leases.HoldVM(ctx, ref, held)
}

// Run looks at all VMs again and again until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	for {
		next := time.NewTimer(w.look(ctx))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-w.news:
		case <-next.C:
		}
		next.Stop()
	}
}

// after is how long a VM must be unused to be stopped; 0: for ever.
func (w *Watcher) after(vm banger.VM) time.Duration {
	return cmp.Or(time.Duration(vm.Spec.IdleStopMS)*time.Millisecond, w.After)
}

// look stops the VMs that nobody used for long enough, and ends those whose time is over. It
// returns when to look again.
func (w *Watcher) look(ctx context.Context) (next time.Duration) {
	next = rarest
	vms, err := w.VMs(ctx)
	if err != nil {
		return next
	}
	there := map[string]bool{}
	var ended sync.WaitGroup
	for _, vm := range vms {
		if vm.State != banger.Running {
			continue
		}
		there[vm.ID] = true
		after := w.after(vm)
		if after > 0 {
			next = min(next, max(after/10, oftenest))
		}
		if !vm.Ends.IsZero() {
			next = min(next, max(vm.Ends.Sub(w.Now()), oftenest))
		}
		switch {
		case !vm.Ends.IsZero() && !w.Now().Before(vm.Ends):
			ended.Go(func() { w.expire(ctx, vm) })
		case after > 0 && w.stale(vm, after):
			ended.Go(func() { w.stop(ctx, vm, after) })
		}
	}
	ended.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, v := range w.vms {
		if !there[id] && v.clients == 0 {
			delete(w.vms, id)
		}
	}
	return next
}

// expire ends a VM whose time to live is over, unless it was given more meanwhile.
func (w *Watcher) expire(ctx context.Context, vm banger.VM) {
	now, err := w.VM(ctx, vm.ID)
	if err != nil || now.State != banger.Running || !now.Ends.Equal(vm.Ends) {
		return
	}
	w.Log.Info("the time to live of this VM is over", "vm", vm.ID, "delete", vm.Spec.Remove)
	if vm.Spec.Remove {
		err = w.DeleteVM(ctx, vm.ID)
	} else {
		ttl := time.Duration(vm.Spec.TTLMS) * time.Millisecond
		_, err = w.StopVM(ctx, vm.ID, banger.StopOptions{Reason: fmt.Sprintf("its time to live, %s, is over", ttl)})
	}
	if err != nil && banger.CodeOf(err) != banger.CodeNotFound {
		w.Log.Error("end a VM whose time to live is over", "vm", vm.ID, "err", err)
	}
}

// stale notes how much CPU time a VMM used since the last look, and reports whether the VM
// was unused for long enough.
func (w *Watcher) stale(now banger.VM, after time.Duration) bool {
	usage, err := w.Usage(now.Held.VMM)
	cpu, at := time.Duration(usage.CPUMS)*time.Millisecond, w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.entry(now.ID)
	worked, past := cpu-v.cpu, at.Sub(v.looked)
	switch {
	case v.boots != now.Boots: // a new run, or one found again
		v.boots, v.used = now.Boots, at
	case v.clients > 0, err != nil, worked.Seconds() > busy*past.Seconds():
		v.used = at
	}
	v.cpu, v.looked = cpu, at
	return at.Sub(v.used) >= after
}

// stop stops a VM unless a command runs in it, a client has a stream to it, or somebody has
// used it meanwhile.
func (w *Watcher) stop(ctx context.Context, vm banger.VM, after time.Duration) {
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	// Not through our own Dial, as this doesn't count as use.
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return w.VMService.Dial(ctx, vm.ID) }}
	sessions, err := c.Sessions(ask)
	runs := err != nil
	if err != nil {
		w.Log.Debug("an unused VM can't be asked for its commands, so it isn't stopped", "vm", vm.ID, "err", err)
	}
	for _, s := range sessions {
		runs = runs || s.Exit == nil
	}
	if !runs {
		// A client that got a stream from an earlier daemon may still have it.
		h, err := c.Health(ask)
		runs = err != nil || h.Streams > 0
	}
	w.mu.Lock()
	v := w.entry(vm.ID)
	if runs {
		v.used = w.Now()
	}
	stale := v.clients == 0 && w.Now().Sub(v.used) >= after
	w.mu.Unlock()
	if !stale {
		return
	}
	w.Log.Info("nobody used this VM for long, stopping it", "vm", vm.ID, "after", after)
	_, err = w.StopVM(ctx, vm.ID, banger.StopOptions{Reason: fmt.Sprintf("nobody used it for %s", after)})
	if err != nil && banger.CodeOf(err) != banger.CodeNotFound {
		w.Log.Error("stop a VM that nobody uses", "vm", vm.ID, "err", err)
	}
}
