package banger

import "time"

// PlanKind is what a plan does to its subjects.
type PlanKind string

// The kinds of plan. Creating and starting do steps; stopping and deleting undo
// them. A restart is a stop after which the VM is started again; a guest's reboot
// is one, too.
const (
	PlanCreate  PlanKind = "create"
	PlanStart   PlanKind = "start"
	PlanStop    PlanKind = "stop"
	PlanRestart PlanKind = "restart"
	PlanDelete  PlanKind = "delete"
)

// Direction says how a plan is finished when the daemon that began it is gone. In
// every direction the steps that have begun are undone, last first.
type Direction string

// The directions.
const (
	Back    Direction = "back"    // then all is as it was before the plan
	Forward Direction = "forward" // then the plan is done: undoing is what was asked for
	Again   Direction = "again"   // then they are done anew, until the VM runs
)

// Plan is what was decided to be done to its subjects. It is in the store from before
// its first effect until the commit that ends it.
//
// A step is in Begun before its first effect, so its undo must accept that the effect
// never happened. Whether a step finished isn't recorded, as nobody needs to know.
type Plan struct {
	ID        string    `json:"id"`
	Subjects  []string  `json:"subjects"` // VM ids, sorted
	Kind      PlanKind  `json:"kind"`
	Direction Direction `json:"direction"`
	Begun     []string  `json:"begun"` // names of steps, in the order they began
	Opened    time.Time `json:"opened"`
	Tries     int       `json:"tries,omitempty"` // how often the steps were begun anew, with Again

	// What was asked for.
	Timeout time.Duration `json:"timeout,omitempty"` // how long the guest's shutdown may take, counted from Opened
	Force   bool          `json:"force,omitempty"`   // don't ask the guest to shut down
	Cold    bool          `json:"cold,omitempty"`    // boot, don't restore from a template
	Reason  string        `json:"reason,omitempty"`  // why; empty: a user asked for it
}

// End returns the state that a VM is in once the begun steps are undone.
func (p Plan) End() State {
	if p.Kind == PlanCreate || p.Kind == PlanDelete {
		return Gone
	}
	return Stopped
}
