package banger

import "time"

// OpKind is what an operation does to a VM.
type OpKind string

// The kinds of operation. Creating and starting build up; stopping and deleting
// are the undoing of what those built. A restart is a stop whose VM is to be
// started again once it is stopped.
const (
	OpCreate  OpKind = "create"
	OpStart   OpKind = "start"
	OpStop    OpKind = "stop"
	OpRestart OpKind = "restart"
	OpDelete  OpKind = "delete"
)

// End returns the state a VM is in once an unfinished operation of this kind
// was undone: a creation rolls back and a deletion rolls forward to Gone, a
// start rolls back, a stop and a restart roll forward to Stopped.
func (k OpKind) End() State {
	if k == OpCreate || k == OpDelete {
		return Gone
	}
	return Stopped
}

// Op is the durable plan of the one operation in flight on a VM. Its presence
// in the store means: undo every begun move, last first, then the VM is in
// Kind.End(). An operation that succeeded removes its plan in the commit that
// acknowledges it.
//
// A move stands in Begun before its first effect, so its undo must accept that
// the effect never happened. Whether a move finished isn't recorded: nothing
// could rest on it.
type Op struct {
	ID     string    `json:"id"`
	VM     string    `json:"vm"` // VM id
	Kind   OpKind    `json:"kind"`
	Begun  []string  `json:"begun"` // names of moves, in the order they began
	Opened time.Time `json:"opened"`
	Cold   bool      `json:"cold,omitempty"` // of a restart: its start is a boot
}
