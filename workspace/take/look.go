package take

import (
	"bytes"
	"context"
	"io"
	"strings"

	"banger/guest"
	"banger/workspace/git"
)

// Change is a file that differs.
type Change struct {
	Status  string      `json:"status"`             // "added", "modified", "deleted", "renamed", "type" (a link that was a file, or the like)
	Path    guest.Bytes `json:"path"`               // {"base64": ...} where it isn't UTF-8
	From    guest.Bytes `json:"from,omitempty"`     // where it was, of a renamed one
	OldMode string      `json:"old_mode,omitempty"` // "100644", "100755", "120000"; none of an added one
	NewMode string      `json:"new_mode,omitempty"`

	object string // the new content's name
}

var statusWords = map[byte]string{'A': "added", 'M': "modified", 'D': "deleted", 'R': "renamed", 'T': "type", 'C': "added"}

// Changes lists the files that differ between the base and the guest's.
func (w *Work) Changes(ctx context.Context) ([]Change, error) {
	if w.Tip == "" {
		return nil, nil
	}
	return w.diff(ctx, w.Base, w.Tip)
}

// ChangesFrom lists those that differ between a commit of the host and another one.
func (w *Work) ChangesFrom(ctx context.Context, from, to string) ([]Change, error) {
	return w.diff(ctx, from, to)
}

func (w *Work) diff(ctx context.Context, from, to string) ([]Change, error) {
	tree, err := w.treeOf(ctx, from)
	if err != nil {
		return nil, err
	}
	out, err := w.bare.Run(ctx, nil, "diff-tree", "-r", "-z", "--raw", "--no-renames", tree, to)
	if err != nil {
		return nil, err
	}
	if bytes.Count(out, []byte{0}) < 4000 { // looking for renames takes long in many files
		if out, err = w.bare.Run(ctx, nil, "diff-tree", "-r", "-z", "--raw", "-M", tree, to); err != nil {
			return nil, err
		}
	}
	return parseRaw(string(out)), nil
}

// parseRaw reads git diff-tree --raw -z.
func parseRaw(out string) (list []Change) {
	fields := strings.Split(out, "\x00")
	for len(fields) > 1 {
		f := strings.Fields(strings.TrimPrefix(fields[0], ":"))
		if len(f) != 5 {
			return list
		}
		c := Change{Status: statusWords[f[4][0]], Path: guest.Bytes(fields[1]), OldMode: f[0], NewMode: f[1], object: f[3]}
		fields = fields[2:]
		if (f[4][0] == 'R' || f[4][0] == 'C') && len(fields) > 0 {
			c.From, c.Path = c.Path, guest.Bytes(fields[0])
			fields = fields[1:]
		}
		if c.OldMode == "000000" {
			c.OldMode = ""
		}
		if c.NewMode == "000000" {
			c.NewMode = ""
		}
		list = append(list, c)
	}
	return list
}

// treeOf returns a commit's tree, or the empty one of no commit.
func (w *Work) treeOf(ctx context.Context, commit string) (string, error) {
	if commit != "" {
		return w.bare.Line(ctx, "rev-parse", commit+"^{tree}")
	}
	out, err := w.bare.Run(ctx, strings.NewReader(""), "hash-object", "-t", "tree", "-w", "--stdin")
	return strings.TrimSpace(string(out)), err
}

// Tree returns the tree of the files as they are in the guest.
func (w *Work) Tree(ctx context.Context) (string, error) { return w.treeOf(ctx, w.Tip) }

// Patch writes one patch of all that differs from the base, for git apply.
func (w *Work) Patch(ctx context.Context, to io.Writer) error {
	if w.Tip == "" {
		return nil
	}
	tree, err := w.treeOf(ctx, w.Base)
	if err != nil {
		return err
	}
	return w.bare.Call(ctx, git.Call{Args: []string{"diff-tree", "-p", "-r", "-M", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", tree, w.Tip}, Stdout: to})
}

// Commit is one of the guest's commits.
type Commit struct {
	ID      string `json:"id"`
	Author  string `json:"author"`
	Email   string `json:"email"`
	Date    string `json:"date"` // RFC 3339
	Subject string `json:"subject"`
	Loose   bool   `json:"uncommitted,omitempty"` // not the guest's: what it had not committed
}

// maxCommits bounds how many commits are listed.
const maxCommits = 10_000

// Commits lists the guest's commits since the base, newest first. What it had not
// committed is the first one.
func (w *Work) Commits(ctx context.Context) (list []Commit, err error) {
	if w.Tip == "" || w.Tip == w.Base {
		return nil, nil
	}
	out, err := w.bare.Run(ctx, nil, w.since("log", "-z", "--no-show-signature", "--no-color", "--no-decorate", "--encoding=UTF-8", "--max-count=10000", "--format=%H%x1f%an%x1f%ae%x1f%aI%x1f%s")...)
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(out), "\x00") {
		f := strings.SplitN(strings.ToValidUTF8(line, "?"), "\x1f", 5)
		if len(f) == 5 && len(list) < maxCommits {
			list = append(list, Commit{ID: f[0], Author: f[1], Email: f[2], Date: f[3], Subject: f[4], Loose: f[0] == w.Tip && w.Tip != w.Head})
		}
	}
	return list, nil
}
