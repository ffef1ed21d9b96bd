package engine

import (
	"context"
	"time"

	"banger/guest"
	"banger/guest/work"
)

// lookTime is how long a stop may wait to hear of the work in its guest.
const lookTime = 5 * time.Second

// lookAtWork writes down which work of a guest that stops is nowhere else, so that a
// deletion can say so. A guest that doesn't answer, or has no git, is nobody's to judge.
func (j *job) lookAtWork(ctx context.Context) {
	hv, err := j.e.hypervisor(j.VM)
	if j.VM.Repository == nil || j.Force || err != nil {
		return
	}
	r := *j.VM.Repository
	r.Left = ""
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	h, err := work.State(ctx, &guest.Client{Dial: dialer(hv, j.e.machine(j.VM))}, r.Guest)
	if err != nil {
		j.e.Log.Info("the work in a VM that stops isn't known", "vm", j.VM.ID, "error", err)
	} else if h.Git {
		r.Left = r.Loose(h.Head, h.Work, h.Tree, len(h.Others))
	}
	j.VM.Repository = &r
}
