package cli

import (
	"context"
	"time"

	"banger"
	"banger/guest"
	"banger/guest/work"
)

// looseWork says what work a directory of a running VM has that is nowhere else; "" if it
// has none. It is the guest's word, good for a warning. known is false if the guest has no
// git: then nobody can say.
func looseWork(ctx context.Context, a *App, vm banger.VM, dir string) (loose string, known bool, err error) {
	h, err := work.State(ctx, a.guest(vm), dir)
	switch r := vm.Repository; {
	case err != nil || !h.Git:
		return "", false, err
	case r == nil || r.Guest != dir:
		return "files of another repository", true, nil
	default:
		return r.Loose(h.Head, h.Work, h.Tree, len(h.Others)), true, nil
	}
}

// workTime is how long a VM that is to be deleted is asked for its work.
const workTime = 10 * time.Second

// lastWork says what work a VM has that is nowhere else, as far as that is known: of one
// that runs by asking it, of another by what was written down when it stopped.
func lastWork(ctx context.Context, a *App, vm banger.VM) string {
	r := vm.Repository
	switch {
	case r == nil || vm.State == banger.Deleting:
		return ""
	case vm.State == banger.Running:
		ctx, cancel := context.WithTimeout(ctx, workTime)
		defer cancel()
		loose, _, err := looseWork(ctx, a, vm, r.Guest) // one without git can't say, and is deleted as it was asked
		if err != nil && (guest.CodeOf(err) != guest.CodeNotFound || !isGuests(err)) {
			return "nobody knows what, as its guest can't be asked"
		}
		return loose
	case r.Left == "" && r.Unseen:
		return "nobody knows what, as it ended without being asked"
	}
	return r.Left
}
