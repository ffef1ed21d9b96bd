package engine

import (
	"context"
	"time"

	"banger/guest"
	"banger/guest/work"
)

// lookTime is how long a stop may wait to hear of the work in its guest.
const lookTime = 5 * time.Second

// unseen writes down that a guest runs: its work may change at any time.
func (j *job) unseen() {
	if r := j.VM.Repository; r != nil {
		now := *r
		now.Unseen = true
		j.VM.Repository = &now
	}
}

// lookAtWork writes down which work of a guest that stops is nowhere else, so that a
// deletion can say so. Of a guest that doesn't answer it isn't known; one without git is nobody's
// to judge.
func (j *job) lookAtWork(ctx context.Context) {
	hv, err := j.e.hypervisor(j.VM)
	if j.VM.Repository == nil || j.Force || err != nil {
		return
	}
	r := *j.VM.Repository
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	h, err := work.State(ctx, &guest.Client{Dial: dialer(hv, j.e.machine(j.VM))}, r.Guest)
	if err != nil && guest.CodeOf(err) != guest.CodeNotFound { // not found: the user removed it there
		j.e.Log.Info("the work in a VM that stops isn't known", "vm", j.VM.ID, "error", err)
		return
	}
	if r.Left, r.Unseen = "", false; err == nil && h.Git {
		r.Left = r.Loose(h.Head, h.Work, h.Tree, len(h.Others))
	}
	j.VM.Repository = &r
}
