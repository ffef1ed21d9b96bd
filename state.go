package banger

import "slices"

// State is where a VM is in its life.
type State string

// The states. A VM is Creating, Starting, Stopping or Deleting only while it has a
// plan. If the daemon dies meanwhile, recovery finishes that plan.
const (
	Creating State = "creating" // resources are being acquired; recovery removes them
	Stopped  State = "stopped"  // has a disk, holds nothing else on the host
	Starting State = "starting" // VMM spawned, agent not yet configured; recovery goes back to Stopped
	Running  State = "running"  // the agent answered once; recovery adopts the VMM, or goes to Stopped when it is gone
	Stopping State = "stopping" // asked to end; recovery goes on to Stopped
	Deleting State = "deleting" // recovery goes on until nothing is left
	Gone     State = ""         // no record: before creation and after deletion
)

// transitions lists the states that a VM may go to from each state. Advance, which
// obeys it, is the only function that changes a state. The diagram in
// ARCHITECTURE.md is generated from this table.
var transitions = map[State][]State{
	Gone:     {Creating},
	Creating: {Stopped, Deleting},
	Stopped:  {Starting, Deleting},
	Starting: {Running, Stopping, Stopped, Deleting},
	Running:  {Stopping, Stopped, Deleting},
	Stopping: {Stopped, Deleting},
	Deleting: {Gone},
}

// States returns every state in the order of a VM's life.
func States() []State {
	return []State{Gone, Creating, Stopped, Starting, Running, Stopping, Deleting}
}

// Next returns the states a VM may enter from s.
func Next(s State) []State { return slices.Clone(transitions[s]) }

// Advance moves the VM to a state and notes why. A transition that isn't in the table
// is our own bug: CodeInternal.
func (vm *VM) Advance(to State, reason string) error {
	if !slices.Contains(transitions[vm.State], to) {
		return Errorf(CodeInternal, "vm %s can't go from %q to %q", vm.ID, vm.State, to)
	}
	vm.State, vm.Reason = to, reason
	return nil
}
