// Package operation runs creations of VMs that go on without the client that asked for
// them: it begins them, keeps their progress and result, and cancels them. It implements
// banger.OperationService.
//
// It knows nothing of how a VM is made, and keeps nothing on disk: what must survive of a
// creation is its VM or its plan in the store.
package operation

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
)

// Kept is how many operations that ended a Table remembers.
const Kept = 256

// maxEvents bounds what is kept of one operation's events, the latest of them.
const maxEvents = 256

// Creator makes VMs. The engine implements it.
type Creator interface {
	// CreateVMAs is banger.VMService's CreateVM as the operation op.
	CreateVMAs(ctx context.Context, op string, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error)
	VMs(ctx context.Context) ([]banger.VM, error)
}

// Table has all operations. Its exported fields are set before its first use; its methods
// may be called concurrently.
type Table struct {
	Creator Creator
	NewID   func() string // never the same twice
	Now     func() time.Time

	mu     sync.Mutex
	all    []*entry // oldest first
	closed bool
	wg     sync.WaitGroup
}

var _ banger.OperationService = (*Table)(nil)

// entry is one operation. Table.mu guards it.
type entry struct {
	op      banger.Operation
	events  []banger.Event
	seqs    []int // sequence number of each event; a later event of the same stage replaces it
	seq     int
	changed chan struct{} // closed by the next change
	begun   chan struct{} // closed by the first
	cancel  context.CancelFunc
	gaveUp  bool // somebody canceled it
	err     error
}

// Recall takes over the plans that an earlier daemon left: creations that its end
// interrupted and that recovery undoes.
func (t *Table) Recall(plans []banger.Plan) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range plans {
		if p.Kind != banger.PlanCreate {
			continue
		}
		t.add(banger.Operation{
			ID: p.ID, Kind: p.Kind, Status: banger.OperationFailed, VM: p.Subjects[0], Began: p.Opened, Ended: t.Now(),
			Error: banger.Errorf(banger.CodeUnavailable, "the daemon ended in the middle of it; what was made is removed").
				WithHint("begin it again"),
		})
	}
}

// add appends an operation. t.mu is held.
func (t *Table) add(op banger.Operation) *entry {
	en := &entry{op: op, changed: make(chan struct{}), begun: make(chan struct{})}
	t.all = append(t.all, en)
	ended := 0
	for _, e := range slices.Backward(t.all) {
		if e.op.Status == banger.OperationRunning {
			continue
		}
		if ended++; ended > Kept {
			t.all = slices.DeleteFunc(t.all, func(x *entry) bool { return x == e })
		}
	}
	return en
}

// BeginCreate begins a creation; see banger.OperationService.
func (t *Table) BeginCreate(ctx context.Context, spec banger.Spec, start bool) (banger.Operation, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		cancel()
		return banger.Operation{}, banger.Errorf(banger.CodeUnavailable, "the daemon is ending").WithHint("try again: the next command starts it")
	}
	en := t.add(banger.Operation{
		ID: t.NewID(), Kind: banger.PlanCreate, Status: banger.OperationRunning, Name: spec.Name, Began: t.Now(),
	})
	en.cancel = cancel
	id := en.op.ID
	t.wg.Go(func() {
		defer cancel()
		vm, err := t.Creator.CreateVMAs(running, id, spec, start, func(e banger.Event) { t.heard(en, e) })
		t.ended(en, vm, err)
	})
	t.mu.Unlock()
	select {
	case <-en.begun:
	case <-ctx.Done(): // the client never got the id
		cancel()
		<-t.over(en)
		return banger.Operation{}, banger.Errorf(banger.CodeCanceled, "the client left before it had begun")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if en.err != nil && len(en.events) == 0 { // it never began
		t.all = slices.DeleteFunc(t.all, func(x *entry) bool { return x == en })
		return banger.Operation{}, en.err
	}
	return en.op, nil
}

// heard records an event. An operation doesn't wait for its followers.
func (t *Table) heard(en *entry, e banger.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	en.seq++
	if last := len(en.events) - 1; last >= 0 && en.events[last].Stage == e.Stage && en.events[last].Message == e.Message {
		en.events[last], en.seqs[last] = e, en.seq
	} else {
		en.events, en.seqs = append(en.events, e), append(en.seqs, en.seq)
	}
	if over := len(en.events) - maxEvents; over > 0 {
		en.events, en.seqs = en.events[over:], en.seqs[over:]
	}
	en.op.Stage, en.op.Message = e.Stage, e.Message
	if e.VM != "" {
		en.op.VM = e.VM
	}
	en.change()
}

// ended notes how an operation ended.
func (t *Table) ended(en *entry, vm banger.VM, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	en.op.Ended, en.err = t.Now(), err
	switch {
	case err == nil:
		en.op.Status, en.op.VM, en.op.Name = banger.OperationDone, vm.ID, vm.Spec.Name
	case en.gaveUp || t.closed || banger.CodeOf(err) == banger.CodeCanceled:
		en.op.Status = banger.OperationCanceled
	default:
		en.op.Status, en.op.Error = banger.OperationFailed, banger.AsError(err)
	}
	en.change()
}

// change wakes those who wait. t.mu is held.
func (en *entry) change() {
	select {
	case <-en.begun:
	default:
		close(en.begun)
	}
	close(en.changed)
	en.changed = make(chan struct{})
}

// over is closed once the operation is.
func (t *Table) over(en *entry) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			t.mu.Lock()
			status, changed := en.op.Status, en.changed
			t.mu.Unlock()
			if status != banger.OperationRunning {
				return
			}
			<-changed
		}
	}()
	return done
}

// find returns the entry of an id or its first digits. t.mu is held.
func (t *Table) find(id string) (*entry, error) {
	var found []*entry
	for _, en := range t.all {
		if en.op.ID == id {
			return en, nil
		}
		if len(id) >= 4 && strings.HasPrefix(en.op.ID, id) {
			found = append(found, en)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	return nil, banger.Errorf(banger.CodeConflict, "%q begins the ids of %d operations", id, len(found)).WithHint("use more digits")
}

// look returns an operation with its entry, which is nil if the operation is known only by
// its VM.
func (t *Table) look(ctx context.Context, id string) (banger.Operation, *entry, error) {
	t.mu.Lock()
	en, err := t.find(id)
	var op banger.Operation
	if en != nil {
		op = en.op
	}
	t.mu.Unlock()
	if en != nil || err != nil {
		return op, en, err
	}
	vms, err := t.Creator.VMs(ctx)
	if err != nil {
		return banger.Operation{}, nil, err
	}
	for _, vm := range vms {
		if vm.MadeBy == id && vm.State != banger.Creating {
			return banger.Operation{
				ID: id, Kind: banger.PlanCreate, Status: banger.OperationDone,
				VM: vm.ID, Name: vm.Spec.Name, Began: vm.Created,
			}, nil, nil
		}
	}
	return banger.Operation{}, nil, banger.Errorf(banger.CodeNotFound, "no operation %q", id).
		WithHint("a restarted daemon forgets the operations that have ended: `banger ps` lists the VMs they made")
}

// Operation returns one operation; see banger.OperationService.
func (t *Table) Operation(ctx context.Context, id string) (banger.Operation, error) {
	op, _, err := t.look(ctx, id)
	return op, err
}

// Operations returns all that are kept, oldest first.
func (t *Table) Operations(context.Context) ([]banger.Operation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]banger.Operation, 0, len(t.all))
	for _, en := range t.all {
		list = append(list, en.op)
	}
	return list, nil
}

// FollowOperation tells an operation's events until it is over.
func (t *Table) FollowOperation(ctx context.Context, id string, p banger.Progress) (banger.Operation, error) {
	op, en, err := t.look(ctx, id)
	if err != nil || en == nil {
		return op, err
	}
	for told := 0; ; {
		t.mu.Lock()
		op, changed := en.op, en.changed
		var fresh []banger.Event
		for i, e := range en.events {
			if en.seqs[i] > told {
				fresh = append(fresh, e)
			}
		}
		told = en.seq
		t.mu.Unlock()
		if p != nil {
			for _, e := range fresh {
				p(e)
			}
		}
		if op.Status != banger.OperationRunning {
			return op, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return op, banger.Errorf(banger.CodeCanceled, "interrupted; operation %s goes on", op.ID)
		}
	}
}

// CancelOperation cancels an operation; see banger.OperationService.
func (t *Table) CancelOperation(ctx context.Context, id string) (banger.Operation, error) {
	op, en, err := t.look(ctx, id)
	if err != nil {
		return op, err
	}
	if en != nil {
		t.mu.Lock()
		if en.op.Status == banger.OperationRunning {
			en.gaveUp = true
			en.cancel()
		}
		t.mu.Unlock()
		select {
		case <-t.over(en):
		case <-ctx.Done():
			return op, banger.Errorf(banger.CodeCanceled, "interrupted; operation %s will be canceled all the same", op.ID)
		}
		t.mu.Lock()
		op = en.op
		t.mu.Unlock()
	}
	if op.Status == banger.OperationDone {
		return op, banger.Errorf(banger.CodeConflict, "operation %s is done: vm %s is there", op.ID, op.Name).
			WithHint("banger vm delete %s", op.Name)
	}
	return op, nil
}

// Close cancels all running operations and returns once they are undone.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	for _, en := range t.all {
		if en.cancel != nil {
			en.cancel()
		}
	}
	t.mu.Unlock()
	t.wg.Wait()
}
