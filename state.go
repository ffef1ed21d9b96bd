package banger

import "slices"

// State is where a VM is in its life.
type State string

// The states. Creating, Starting, Stopping and Deleting are held only while an
// operation runs, or by an operation whose daemon died: recovery ends them.
const (
	Creating State = "creating" // resources are being acquired; recovery rolls back
	Stopped  State = "stopped"  // has a disk, holds nothing else on the host
	Starting State = "starting" // VMM spawned, agent not yet configured; recovery rolls back to Stopped
	Running  State = "running"  // the agent answered once; recovery adopts or, when the VMM is gone, ends in Stopped
	Stopping State = "stopping" // asked to end; recovery rolls forward to Stopped
	Deleting State = "deleting" // recovery rolls forward until nothing is left
	Gone     State = ""         // no record: before creation and after deletion
)

// transitions lists, per state, where a VM may go from it. It is the whole
// truth: Advance is the only function that changes a state, and the diagram in
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

// Advance moves the VM to a state and notes why. It refuses, with
// CodeInternal, a transition the table doesn't have: that is our own bug.
func (vm *VM) Advance(to State, reason string) error {
	if !slices.Contains(transitions[vm.State], to) {
		return Errorf(CodeInternal, "vm %s can't go from %q to %q", vm.ID, vm.State, to)
	}
	vm.State, vm.Reason = to, reason
	return nil
}
