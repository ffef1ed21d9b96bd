package send

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/guest/work"
	"banger/host/hostfs"
	"banger/workspace/git"
)

// Record is what is written down of a repository that went into a guest's directory.
func (r *Repo) Record(ctx context.Context, guest string) (banger.Repository, error) {
	h, err := r.newest(ctx)
	return banger.Repository{Path: r.Top, Guest: guest, Format: r.git.Format, Base: h.Commit, Branch: h.Branch, At: time.Now().UTC().Round(time.Second),
		Untracked: r.IncludeUntracked, ReadOnly: r.ReadOnly, Depth: r.Depth}, err
}

// newest is the newest commit when it was first asked for: what is written down is what
// goes into the tar, even if somebody commits meanwhile.
func (r *Repo) newest(ctx context.Context) (git.Head, error) {
	if r.head != nil {
		return *r.head, nil
	}
	h, err := r.git.Head(ctx)
	if err == nil && r.From != "" {
		h.Commit, err = r.git.Commit(ctx, r.From)
	}
	if err == nil && r.Branch != "" {
		h.Branch, err = r.git.BranchName(ctx, r.Branch)
	}
	if err == nil {
		r.head = &h
	}
	return h, err
}

// snapshot is what the files were when they were looked at.
type snapshot struct {
	tree  string
	files map[string]string // by path: "MODE OBJECT"
}

// Snapshot returns the name of the tree that the files make as they are when it is first
// asked for. It is made in a throw-away repository: nothing of this one changes, and no filter
// of its configuration runs.
func (r *Repo) Snapshot(ctx context.Context) (tree string, err error) {
	if r.From != "" { // its files, not those here
		h, err := r.newest(ctx)
		if err != nil {
			return "", err
		}
		return r.git.Tree(ctx, h.Commit)
	}
	s, err := r.look(ctx)
	return s.tree, err
}

// snapshotFiles returns the files of Snapshot; none of a commit's, which are in its index.
func (r *Repo) snapshotFiles(ctx context.Context) (map[string]string, error) {
	if r.From != "" {
		return nil, nil
	}
	s, err := r.look(ctx)
	return s.files, err
}

// look makes the snapshot.
func (r *Repo) look(ctx context.Context) (s snapshot, err error) {
	if r.now != nil {
		return *r.now, nil
	}
	files, err := r.Files(ctx)
	if err != nil {
		return s, err
	}
	dir, remove, err := hostfs.Scratch(ctx, git.Scratches())
	if err != nil {
		return s, err
	}
	defer remove()
	bare, err := git.NewBare(ctx, dir, r.git.Format, r.git.Objects())
	if err != nil {
		return s, err
	}
	if err := work.CopyIndex(r.git.Index(), filepath.Join(dir, "index")); err != nil {
		return s, err
	}
	env := []string{"GIT_WORK_TREE=" + r.Top}
	var changed bytes.Buffer
	// git add -u would run git in submodules, by their own configuration.
	if err := bare.Call(ctx, git.Call{Args: []string{"ls-files", "-m", "-d", "-z"}, Env: env, Stdout: &changed}); err != nil {
		return s, err
	}
	kinds := map[string]string{}
	var modules []string
	for _, e := range files.index {
		if kinds[e.path] = e.mode(); e.mode() == gitlink {
			modules = append(modules, e.path+"/")
		}
	}
	var list bytes.Buffer
	for p := range strings.SplitSeq(changed.String(), "\x00") {
		if p != "" && kinds[p] != gitlink { // a submodule is as it is recorded, whatever is checked out there
			list.WriteString(p + "\x00")
		}
	}
	for _, p := range files.Paths {
		if kinds[p] == "" && !slices.ContainsFunc(modules, func(m string) bool { return strings.HasPrefix(p, m) }) {
			list.WriteString(p + "\x00")
		}
	}
	if list.Len() > 0 {
		if err := bare.Call(ctx, git.Call{Args: []string{"update-index", "--add", "--remove", "-z", "--stdin"}, Env: env, Stdin: &list}); err != nil {
			return s, err
		}
	}
	if s.tree, err = bare.Line(ctx, "write-tree"); err != nil {
		return s, err
	}
	out, err := bare.Run(ctx, nil, "ls-files", "-s", "-z")
	if err != nil {
		return s, err
	}
	s.files = make(map[string]string, len(files.index))
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if info, path, ok := strings.Cut(line, "\t"); ok {
			s.files[path] = strings.TrimSuffix(info, " 0")
		}
	}
	r.now = &s
	return s, nil
}

// There lists the files that go, with a zero byte after each, as they are in the work tree
// or in the commit that goes in its place.
func (r *Repo) There(ctx context.Context) (string, error) {
	files, err := r.Files(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, list := range [][]string{files.Paths, files.Ignored, files.Submodules} {
		for _, p := range list {
			if r.From != "" || exists(filepath.Join(r.Top, p)) {
				b.WriteString(p + "\x00")
			}
		}
	}
	b.WriteString("\x00")
	return b.String(), nil
}
