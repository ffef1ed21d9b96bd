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
	Kind    PlanKind        `json:"kind"`
	Status  OperationStatus `json:"status"`
	VM      string          `json:"vm,omitempty"`      // VM id, as soon as there is one
	Name    string          `json:"name,omitempty"`    // the VM's name, once it is known
	Stage   string          `json:"stage,omitempty"`   // the last event's
	Message string          `json:"message,omitempty"` // the last event's
	Error   *Error          `json:"error,omitempty"`   // why it failed
	Began   time.Time       `json:"began"`
	Ended   time.Time       `json:"ended,omitzero"`
}

// OperationService begins creations and tells any client how they are getting on.
// The client that began one may be gone. Ids may be shortened as those of VMs are.
//
// Running operations end with the daemon: what they made of a VM is undone, by this
// daemon or by the next one. An operation whose VM was made is known for as long as
// that VM exists. An operation that isn't known has left nothing behind.
type OperationService interface {
	// BeginCreate begins VMService.CreateVM. It returns once the VM is recorded, or
	// once something slow, such as a download, has to come before that. If ctx ends
	// first, nothing of the VM remains. An error that comes first is CreateVM's own.
	BeginCreate(ctx context.Context, spec Spec, start bool) (Operation, error)
	// Operation returns one operation. CodeNotFound when there is none.
	Operation(ctx context.Context, id string) (Operation, error)
	// Operations returns those that run and the latest of those that ended, oldest
	// first.
	Operations(ctx context.Context) ([]Operation, error)
	// FollowOperation calls p for each event of an operation, from its first on, and
	// returns once the operation is over. The operation goes on if ctx ends.
	FollowOperation(ctx context.Context, id string, p Progress) (Operation, error)
	// CancelOperation cancels an operation and returns once nothing of its VM
	// remains. CodeConflict when the VM was made. One that failed is returned as it is.
	CancelOperation(ctx context.Context, id string) (Operation, error)
}
