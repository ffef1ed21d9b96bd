package banger

import (
	"context"
	"time"
)

// OperationStatus is how far an Operation is.
type OperationStatus string

// The statuses. All but the first are final.
const (
	OperationRunning  OperationStatus = "running"
	OperationDone     OperationStatus = "done"
	OperationFailed   OperationStatus = "failed"
	OperationCanceled OperationStatus = "canceled"
)

// Operation is a creation that goes on without the client that asked for it.
// Its id is the one in errors, events and the log.
type Operation struct {
	ID      string          `json:"id"`
	Kind    OpKind          `json:"kind"`
	Status  OperationStatus `json:"status"`
	VM      string          `json:"vm,omitempty"`      // VM id, as soon as there is one
	Name    string          `json:"name,omitempty"`    // the VM's name, once it is known
	Stage   string          `json:"stage,omitempty"`   // the last event's
	Message string          `json:"message,omitempty"` // likewise
	Error   *Error          `json:"error,omitempty"`   // why it failed
	Began   time.Time       `json:"began"`
	Ended   time.Time       `json:"ended,omitzero"`
}

// Operations begins creations and tells how they come along, to whoever asks:
// the client that began one may be gone. Table of package operation and API
// client implement it; ids may be shortened as those of VMs are.
//
// A daemon's end is the end of what runs: a VM that was being made is taken
// back, by it or by the next one. An operation whose VM was made is known for as
// long as that VM; of one that nobody knows any more, nothing is left.
type Operations interface {
	// BeginCreate begins VMService.CreateVM and returns as soon as the VM is recorded
	// or something slower than that goes on before it. If ctx ends first, nothing
	// of the VM remains. An error that comes first is CreateVM's own.
	BeginCreate(ctx context.Context, spec Spec, start bool) (Operation, error)
	// Operation returns one operation. CodeNotFound when there is none.
	Operation(ctx context.Context, id string) (Operation, error)
	// Operations returns those that run, and of those that ended the latest; oldest first.
	Operations(ctx context.Context) ([]Operation, error)
	// FollowOperation calls p for each event of an operation from its first on and
	// returns once it is over. That ctx ends does the operation nothing.
	FollowOperation(ctx context.Context, id string, p Progress) (Operation, error)
	// CancelOperation gives an operation up and returns once nothing of its VM
	// remains. CodeConflict when the VM was made; one that failed stays as it is.
	CancelOperation(ctx context.Context, id string) (Operation, error)
}
