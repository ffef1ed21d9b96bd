package take

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/workspace/git"
)

// unpackBelow is from how many objects on a pack stays a pack in the user's repository, as
// git itself has it (fetch.unpackLimit).
const unpackBelow = 100

// Refs are where work is kept in the user's repository: those of a VM.
func Refs(vm string) (head, work string) {
	return "refs/banger/" + vm + "/head", "refs/banger/" + vm + "/work"
}

// Keep puts the work, or a commit that was made of it, into the user's repository: the
// guest's newest commit, and the files as they are. With branch it also makes that branch,
// or moves it forward. All refs change at once, or none does. CodeConflict when the branch
// is there and would lose commits, or is checked out.
func (w *Work) Keep(ctx context.Context, vm, branch string) error {
	head, work := Refs(vm)
	refs := [][3]string{{head, w.Head}, {work, w.Tip}} // the last: what it must be before; "" for anything
	if branch != "" {
		ref, at, err := w.freeBranch(ctx, branch)
		if err != nil {
			return err
		}
		refs = append(refs, [3]string{ref, w.Tip, cmp.Or(at, strings.Repeat("0", len(w.Tip)))})
	}
	var names []string
	for _, r := range refs {
		names = append(names, r[0])
	}
	if err := w.Host.CheckRefs(names...); err != nil {
		return err
	}
	if err := w.Store(ctx, w.Tip); err != nil {
		return err
	}
	var lines strings.Builder
	lines.WriteString("start\n")
	for _, r := range refs {
		if r[1] != "" {
			// A ref that only names another one doesn't lead to that: it could be checked out.
			fmt.Fprintf(&lines, "option no-deref\nupdate %s\n", strings.TrimSpace(strings.Join(r[:], " ")))
		}
	}
	lines.WriteString("prepare\ncommit\n")
	_, err := w.Host.Run(ctx, strings.NewReader(lines.String()), "update-ref", "--create-reflog", "-m", "banger: work of vm "+vm, "--stdin")
	return err
}

// Store puts a commit of the throw-away repository, and what it needs, into the user's.
func (w *Work) Store(ctx context.Context, commit string) error {
	if commit == "" || commit == w.Base {
		return nil
	}
	file := filepath.Join(w.bare.Dir, "out.pack")
	defer func() { _ = os.Remove(file) }() // it goes with the repository at the latest
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	revs := commit + "\n"
	if w.Base != "" {
		revs += "^" + w.Base + "\n"
	}
	if err := w.bare.Call(ctx, git.Call{Args: []string{"pack-objects", "-q", "--revs", "--stdout", "--delta-base-offset"}, Stdin: strings.NewReader(revs), Stdout: f}); err != nil {
		return err
	}
	var start [12]byte
	if _, err := f.ReadAt(start[:], 0); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	args := []string{"index-pack", "--stdin"}
	switch n := binary.BigEndian.Uint32(start[8:]); {
	case n == 0:
		return nil
	case n < unpackBelow:
		args = []string{"unpack-objects", "-q"}
	}
	return w.Host.Call(ctx, git.Call{Args: args, Stdin: f})
}

// freeBranch returns the full name of a branch that may be set to the work, and the commit
// that it is at; "" if there is none.
func (w *Work) freeBranch(ctx context.Context, name string) (ref, at string, err error) {
	if ref, err = w.Host.BranchName(ctx, name); err != nil {
		return "", "", err
	}
	at, where, err := w.Host.Branch(ctx, ref)
	if err != nil || at != "" && at == w.Tip {
		return ref, at, err
	}
	if where != "" {
		return "", "", banger.Errorf(banger.CodeConflict, "the branch %s is checked out in %s", name, where).
			WithHint("`banger workspace land` merges into it; or choose another name")
	}
	if at == "" {
		return ref, "", nil
	}
	if err := w.bare.Call(ctx, git.Call{Args: []string{"merge-base", "--is-ancestor", at, w.Tip}}); err != nil {
		return "", "", banger.Errorf(banger.CodeConflict, "there is a branch %s with commits that the VM doesn't have", name).
			WithHint("choose another name, or remove it: git branch -D %s", name)
	}
	return ref, at, nil
}
