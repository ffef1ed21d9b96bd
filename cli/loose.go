package cli

import (
	"bytes"
	"context"
	"encoding/json"

	"banger"
	"banger/guest/work"
)

// looseWork says what work a directory of a running VM has that is nowhere else; "" if it
// has none. It is the guest's word, good for a warning. Work is elsewhere if the files are
// those that went in, or those that were taken out last.
func looseWork(ctx context.Context, a *App, vm banger.VM, dir string) (string, error) {
	var line bytes.Buffer
	if err := work.State(ctx, a.guest(vm), dir, &bounded{&line, work.MaxHead}); err != nil {
		return "", err
	}
	var h work.Head
	if err := json.Unmarshal(line.Bytes(), &h); err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "the agent of vm %s says of its work: %w", vm.Spec.Name, err)
	}
	r := vm.Repository
	switch {
	case !h.Git:
		return "without git in the VM, nobody knows what changed", nil
	case r == nil || r.Guest != dir:
		return "files of another repository", nil
	case h.Tree == r.Sent && h.Head == r.Base || r.Taken != "" && h.Tree == r.Taken && h.Head == r.TakenHead:
		return "", nil
	case h.Head != r.Base && h.Work != h.Head:
		return "commits, and changes that aren't committed", nil
	case h.Head != r.Base:
		return "commits", nil
	}
	return "changes that aren't committed", nil
}

// bounded is a writer that refuses what is too long.
type bounded struct {
	to   *bytes.Buffer
	left int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, banger.Errorf(banger.CodeUnavailable, "the guest's agent answers without end")
	}
	return b.to.Write(p)
}
