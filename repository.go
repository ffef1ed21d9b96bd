package banger

import (
	"strings"
	"time"
)

// Repository is what a guest has of a repository of its host. It was written down by the
// host when the files went in: nothing of it is a guest's word.
type Repository struct {
	Path   string    `json:"path"`             // of the top of its work tree on the host, absolute
	Guest  string    `json:"guest"`            // of its copy in the guest, absolute
	Format string    `json:"format"`           // of its object names: "sha1" or "sha256"
	Base   string    `json:"base,omitempty"`   // its newest commit then; "" before the first
	Branch string    `json:"branch,omitempty"` // full name of its branch then; "" when detached
	Sent   string    `json:"sent,omitempty"`   // tree of the files as they went in; "" if that isn't known
	At     time.Time `json:"at"`               // when they went in
	// What was last taken out of the guest: its newest commit and the tree of its files.
	TakenHead string `json:"taken_head,omitempty"`
	Taken     string `json:"taken,omitempty"`
	// Left says what work the guest had, when it was stopped, that was nowhere else; "" when
	// there was none, or nobody knows. It is the guest's word, good for a warning.
	Left string `json:"left,omitempty"`
	// Unseen says that the guest ran since Left was written down: what it has isn't known, unless
	// it runs and is asked.
	Unseen bool `json:"unseen,omitempty"`
	// How it went in, so that it goes in again the same way.
	Untracked bool `json:"untracked,omitempty"` // with the files that git doesn't know
	ReadOnly  bool `json:"read_only,omitempty"` // nobody but the guest's root may write the files
	Depth     int  `json:"depth,omitempty"`     // how many commits of history went in; -1: all
}

// Loose says which work of a guest's is nowhere else, if these are its newest commit, a
// commit of its files as they are, and that one's tree; "" for none. others is how many other
// branches and stashes have commits that head hasn't.
func (r Repository) Loose(head, work, tree string, others int) string {
	switch {
	case others > 0:
		return "commits on other branches, or in a stash"
	case tree == r.Sent && head == r.Base, r.Taken != "" && tree == r.Taken && head == r.TakenHead:
		return ""
	case head != r.Base && work != head:
		return "commits, and changes that aren't committed"
	case head != r.Base:
		return "commits"
	}
	return "changes that aren't committed"
}

// Check bounds what is written down of a repository.
func (r Repository) Check() error {
	for _, p := range []string{r.Path, r.Guest} {
		if !strings.HasPrefix(p, "/") || len(p) > 4096 || strings.ContainsRune(p, 0) {
			return Errorf(CodeInvalid, "the repository's path %q isn't an absolute one of at most 4096 bytes", p)
		}
	}
	for _, id := range []string{r.Base, r.Sent, r.Taken, r.TakenHead} {
		if id != "" && (len(id) != 40 && len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "") {
			return Errorf(CodeInvalid, "%.80q is no name of an object of git", id)
		}
	}
	if r.Format != "sha1" && r.Format != "sha256" || len(r.Branch) > 1024 {
		return Errorf(CodeInvalid, "the repository's format is %.20q and its branch %.40q: git has no such", r.Format, r.Branch)
	}
	return nil
}
