package send

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger"
	"banger/workspace/git"
)

// maxNesting bounds submodules within submodules.
const maxNesting = 8

// Files says which files go into a tar, and which don't.
type Files struct {
	Paths      []string // relative to Repo.Top, sorted; those missing in the work tree are left out later
	Untracked  int      // how many untracked files stay behind, without ignored ones
	Submodules []string // not checked out: they become empty directories
	Ignored    []string // files that git ignores and .worktreeinclude takes along

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

// Files lists the repository's files: tracked ones, those of submodules that are
// checked out, and untracked ones with IncludeUntracked. The list is made once.
func (r *Repo) Files(ctx context.Context) (Files, error) {
	if r.files == nil {
		scan := func() (Files, error) { return r.scan(ctx, 0) }
		if r.From != "" {
			scan = func() (Files, error) { return r.scanCommit(ctx) }
		}
		f, err := scan()
		if err != nil {
			return Files{}, err
		}
		r.files = &f
	}
	return *r.files, nil
}

func (r *Repo) scan(ctx context.Context, depth int) (Files, error) {
	var f Files
	out, err := r.git.Run(ctx, nil, "ls-files", "-s", "-t", "-z")
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
	if depth == 0 {
		if err := f.addIgnored(ctx, r); err != nil {
			return f, err
		}
	}
	slices.Sort(f.Paths)
	f.Paths = slices.Compact(f.Paths) // a conflict has several entries of one path
	return f, nil
}

// entryInfo is what an entry says before its path. A file that is gone has no object.
var entryInfo = regexp.MustCompile(`^[0-7]{6} ([0-9a-f]{40}|[0-9a-f]{64}|-) [0-3]$`)

func parseEntry(line string) (indexEntry, error) {
	info, path, ok := strings.Cut(line, "\t")
	tag, info, tagged := strings.Cut(info, " ")
	if !ok || !tagged || !entryInfo.MatchString(info) {
		return indexEntry{}, banger.Errorf(banger.CodeInternal, "git ls-files answered %.100q", line)
	}
	return indexEntry{info, path, tag == "S"}, git.CheckPath(path)
}

// addSubmodule adds the files of a submodule, as if they were the repository's own. A
// submodule that isn't checked out has none.
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
	opened, err := git.Open(ctx, dir)
	if err != nil {
		return err
	}
	sub := &Repo{Top: dir, Options: Options{IncludeUntracked: r.IncludeUntracked}, git: opened}
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
	out, err := r.git.Run(ctx, nil, "ls-files", "-o", "--exclude-standard", "-z")
	if err != nil {
		return err
	}
	for line := range bytes.SplitSeq(out, []byte{0}) {
		path := string(line)
		switch {
		case path == "":
		case !r.IncludeUntracked || strings.HasSuffix(path, "/"): // with "/": another repository
			f.Untracked++
		default:
			if err := git.CheckPath(path); err != nil {
				return err
			}
			f.Paths = append(f.Paths, path)
		}
	}
	return nil
}

// scanCommit lists the files of the commit that goes in place of the checkout.
func (r *Repo) scanCommit(ctx context.Context) (f Files, err error) {
	h, err := r.newest(ctx)
	if err != nil {
		return f, err
	}
	out, err := r.git.Run(ctx, nil, "ls-tree", "-r", "-z", "--full-tree", h.Commit)
	if err != nil {
		return f, unreadable(err)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, path, ok := strings.Cut(line, "\t")
		if words := strings.Fields(info); ok && len(words) == 3 {
			if err := git.CheckPath(path); err != nil {
				return f, err
			}
			e := indexEntry{info: words[0] + " " + words[2] + " 0", path: path}
			if f.index = append(f.index, e); e.mode() == gitlink {
				f.Submodules = append(f.Submodules, path)
			} else {
				f.Paths = append(f.Paths, path)
			}
		}
	}
	return f, nil
}

// included names files, by patterns as in .gitignore, that travel though git ignores them.
const included = ".worktreeinclude"

// addIgnored adds files that git ignores and the repository wants to travel.
func (f *Files) addIgnored(ctx context.Context, r *Repo) error {
	if info, err := os.Lstat(filepath.Join(r.Top, included)); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	var lists [2]map[string]bool
	for i, source := range []string{"--exclude-standard", "--exclude-from=" + included} {
		out, err := r.git.Run(ctx, nil, "ls-files", "-o", "-i", "-z", source)
		if err != nil {
			return err
		}
		lists[i] = map[string]bool{}
		for path := range strings.SplitSeq(string(out), "\x00") {
			lists[i][path] = true
		}
	}
	for path := range lists[0] {
		if path == "" || !lists[1][path] || strings.HasSuffix(path, "/") {
			continue
		}
		if err := git.CheckPath(path); err != nil {
			return err
		}
		f.Ignored = append(f.Ignored, path)
	}
	slices.Sort(f.Ignored)
	return nil
}
