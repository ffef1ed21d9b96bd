package workspace

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"

	"banger"
)

// maxNesting bounds submodules within submodules.
const maxNesting = 8

// Files says what goes into a tar, and what doesn't.
type Files struct {
	Paths      []string // relative to Repo.Top, sorted; those missing in the work tree are left out later
	Untracked  int      // how many untracked files (ignored ones aside) stay behind
	Submodules []string // not checked out: they become empty directories

	index []indexEntry
}

// indexEntry is a line of git ls-files -s.
type indexEntry struct {
	info     string // "100644 OBJECT STAGE"
	path     string
	unwanted bool // skip-worktree: outside a sparse checkout
}

func (e indexEntry) mode() string   { return e.info[:6] }
func (e indexEntry) object() string { return strings.Fields(e.info)[1] }

const gitlink = "160000"

// Files lists the repository's files: tracked ones, also of submodules that
// are checked out, and untracked ones when asked for. The list is made once.
func (r *Repo) Files(ctx context.Context) (Files, error) {
	if r.files == nil {
		f, err := r.scan(ctx, 0)
		if err != nil {
			return Files{}, err
		}
		r.files = &f
	}
	return *r.files, nil
}

func (r *Repo) scan(ctx context.Context, depth int) (Files, error) {
	var f Files
	out, err := r.git(ctx, nil, "ls-files", "-s", "-t", "-z")
	if err != nil {
		return f, err
	}
	for line := range bytes.SplitSeq(bytes.TrimSuffix(out, []byte{0}), []byte{0}) {
		if len(line) == 0 {
			continue
		}
		e, err := parseEntry(string(line))
		if err != nil {
			return f, err
		}
		f.index = append(f.index, e)
		switch {
		case e.mode() != gitlink:
			f.Paths = append(f.Paths, e.path)
		case !e.unwanted:
			if err := f.addSubmodule(ctx, r, e.path, depth); err != nil {
				return f, err
			}
		}
	}
	if err := f.addUntracked(ctx, r); err != nil {
		return f, err
	}
	slices.Sort(f.Paths)
	f.Paths = slices.Compact(f.Paths) // a conflict has several entries of one path
	return f, nil
}

func parseEntry(line string) (indexEntry, error) {
	info, path, ok := strings.Cut(line, "\t")
	tag, info, tagged := strings.Cut(info, " ")
	if !ok || !tagged || len(strings.Fields(info)) != 3 || len(info) < 6 {
		return indexEntry{}, banger.Errorf(banger.CodeInternal, "git ls-files answered %.100q", line)
	}
	return indexEntry{info, path, tag == "S"}, checkPath(path)
}

// checkPath refuses names that git itself would never have put into an index.
func checkPath(path string) error {
	bad := !filepath.IsLocal(path)
	for part := range strings.SplitSeq(path, "/") {
		bad = bad || part == "" || part == "." || strings.EqualFold(part, ".git")
	}
	if bad {
		return banger.Errorf(banger.CodeInvalid, "the repository's index names %.200q, which no file of a work tree can be called", path).
			WithHint("the repository is damaged or hostile")
	}
	return nil
}

// addSubmodule takes the files of a submodule as if they were the
// repository's own. One that isn't checked out has none.
func (f *Files) addSubmodule(ctx context.Context, r *Repo, path string, depth int) error {
	dir := filepath.Join(r.Top, path)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || real != dir || !exists(filepath.Join(dir, ".git")) {
		f.Submodules = append(f.Submodules, path)
		return nil
	}
	if depth == maxNesting {
		return banger.Errorf(banger.CodeInvalid, "submodule %.200q is nested more than %d deep", path, maxNesting)
	}
	sub := &Repo{Top: dir, IncludeUntracked: r.IncludeUntracked}
	if err := sub.check(ctx); err != nil {
		return err
	}
	below, err := sub.scan(ctx, depth+1)
	if err != nil {
		return err
	}
	for _, p := range below.Paths {
		f.Paths = append(f.Paths, path+"/"+p)
	}
	for _, p := range below.Submodules {
		f.Submodules = append(f.Submodules, path+"/"+p)
	}
	f.Untracked += below.Untracked
	return nil
}

func (f *Files) addUntracked(ctx context.Context, r *Repo) error {
	out, err := r.git(ctx, nil, "ls-files", "-o", "--exclude-standard", "-z")
	if err != nil {
		return err
	}
	for line := range bytes.SplitSeq(out, []byte{0}) {
		path := string(line)
		switch {
		case path == "":
		case !r.IncludeUntracked || strings.HasSuffix(path, "/"): // a repository of its own
			f.Untracked++
		default:
			if err := checkPath(path); err != nil {
				return err
			}
			f.Paths = append(f.Paths, path)
		}
	}
	return nil
}
