package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/guest/tartree"
	"banger/guest/work"
)

// giveWork is work DIR BASE: it writes what there is of a repository's work; see work.Head.
func giveWork(args []string, _ io.Reader, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("a directory and a commit, please")
	}
	return tell(args[0], out, func(r *repo, h *work.Head) error {
		if err := r.look(h); err != nil {
			return err
		}
		return r.commit(h)
	}, func(r *repo, h work.Head) error {
		switch {
		case r == nil:
			return tartree.PackWithout(out, args[0]+"/.", ".git")
		case h.Work == "":
			return nil
		}
		revs := h.Work + "\n"
		if args[1] != "" && r.run(nil, nil, "cat-file", "-e", args[1]+"^{commit}") == nil {
			revs += "^" + args[1] + "\n"
		}
		return r.run(strings.NewReader(revs), out, "pack-objects", "-q", "--revs", "--stdout", "--delta-base-offset")
	})
}

// workState is workstate DIR: it writes only the line of work.
func workState(args []string, _ io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	return tell(args[0], out, func(r *repo, h *work.Head) error { return r.look(h) }, func(*repo, work.Head) error { return nil })
}

// tell writes the line of a directory, as look finds it, and calls more while what it names is
// there. Without git, or where it can't read the directory, look isn't called and r is nil.
func tell(dir string, out io.Writer, look func(r *repo, h *work.Head) error, more func(r *repo, h work.Head) error) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	r, err := openRepo(dir)
	if err != nil {
		return err
	}
	var h work.Head
	if r != nil {
		defer r.close()
		if err := look(r, &h); err != nil {
			return err
		}
	}
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := out.Write(append(line, '\n')); err != nil {
		return err
	}
	return more(r, h)
}

// repo is a repository of the guest whose work is looked at. New objects and a copy of its
// index are in a directory of their own, so that nothing of the repository changes.
type repo struct {
	git, dir, own string
	lock          *os.File // on own, while this runs
	env           []string
	changed       map[string]bool // files that differ from its own index, after look
}

// openRepo returns nil if there is no git, or no repository that it can read.
func openRepo(dir string) (*repo, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, nil
	}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		return nil, nil
	}
	r := &repo{git: git, dir: dir}
	gitDir, err := r.answer("rev-parse", "--absolute-git-dir")
	if err != nil {
		return nil, err
	}
	objects := filepath.Join(gitDir, "objects")
	if _, err := os.Lstat(filepath.Join(gitDir, "commondir")); err == nil { // a linked work tree's are elsewhere
		if objects, err = r.answer("rev-parse", "--git-path", "objects"); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(objects) {
			objects = filepath.Join(dir, objects)
		}
	}
	if err := r.scratch(gitDir); err != nil {
		return nil, err
	}
	index := filepath.Join(r.own, "index")
	if err := work.CopyIndex(filepath.Join(gitDir, "index"), index); err != nil {
		r.close()
		return nil, err
	}
	r.env = append(os.Environ(), "GIT_INDEX_FILE="+index, "GIT_OBJECT_DIRECTORY="+r.own, "GIT_ALTERNATE_OBJECT_DIRECTORIES="+quoted(objects))
	return r, nil
}

// quoted is a path in GIT_ALTERNATE_OBJECT_DIRECTORIES, in which colons part them.
func quoted(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path) + `"`
}

// scratch makes the directory, and removes those of tools that were killed: one that runs
// has its own locked.
func (r *repo) scratch(gitDir string) error {
	const prefix = "banger-work-"
	old, _ := filepath.Glob(filepath.Join(gitDir, prefix+"*")) // names with a bracket find nothing, and nothing is removed
	for _, dir := range old {
		if f, err := os.Open(dir); err == nil {
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				_ = os.RemoveAll(dir)
			}
			_ = f.Close()
		}
	}
	dir, err := os.MkdirTemp(gitDir, prefix)
	if err != nil {
		return err
	}
	r.own = dir
	if r.lock, err = os.Open(dir); err == nil {
		err = unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		r.close()
	}
	return err
}

func (r *repo) close() {
	_ = os.RemoveAll(r.own)
	_ = r.lock.Close()
}

// look fills in all but Work: what the repository has, and the tree of the files as they are. The
// copy of the index is of them then. Work is Head if no file differs from that.
func (r *repo) look(h *work.Head) (err error) {
	h.Git = true
	h.Branch, _ = r.answer("symbolic-ref", "-q", "HEAD") // none: detached
	var tree string
	if at, err := r.answer("rev-parse", "HEAD^{commit}", "HEAD^{tree}"); err == nil { // else before the first
		h.Head, tree, _ = strings.Cut(at, "\n")
		others, err := r.answer("for-each-ref", fmt.Sprintf("--count=%d", maxNested), "--format=%(refname)", "--no-merged="+h.Head, "refs/heads", "refs/stash")
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(others) {
			h.Others = append(h.Others, name[:min(len(name), 200)])
		}
	}
	if h.Nested, err = r.addChanged(); err != nil {
		return err
	}
	if h.Tree, err = r.answer("write-tree"); h.Tree == tree {
		h.Work = h.Head
	}
	return err
}

// commit makes a commit of the files as they are, in the directory of its own, unless they are
// those of the newest commit.
func (r *repo) commit(h *work.Head) error {
	if h.Head != "" && h.Work == h.Head {
		return nil
	}
	args := []string{"commit-tree", h.Tree, "-m", "Work that was not committed yet"}
	if h.Head != "" {
		args = append(args, "-p", h.Head)
	} else if files, err := r.answer("ls-files", "-z"); err != nil || files == "" {
		return err // nothing at all
	}
	for key, otherwise := range map[string]string{"name": "banger", "email": "banger@localhost"} {
		value, err := r.answer("config", "--get", "user."+key)
		if err != nil || value == "" {
			value = otherwise
		}
		for _, who := range []string{"AUTHOR", "COMMITTER"} {
			r.env = append(r.env, "GIT_"+who+"_"+strings.ToUpper(key)+"="+value)
		}
	}
	var err error
	h.Work, err = r.answer(args...)
	return err
}

// maxNested bounds how many repositories inside of one are told, and other branches.
const maxNested = 50

// addChanged brings the copy of the index to the files as they are, with those that git
// doesn't know and doesn't ignore. It leaves out, and returns, repositories inside of this one.
// Git looks at each file once: most of the time goes there.
func (r *repo) addChanged() (nested []string, err error) {
	var list, new, changed bytes.Buffer
	if err := r.run(nil, &list, "ls-files", "-t", "-m", "-d", "-o", "--exclude-standard", "-z"); err != nil {
		return nil, err
	}
	r.changed = map[string]bool{}
	for entry := range bytes.SplitSeq(list.Bytes(), []byte{0}) {
		tag, name, ok := strings.Cut(string(entry), " ")
		switch {
		case !ok || r.changed[name]:
		case tag != "?":
			r.changed[name] = true
			changed.WriteString(name + "\x00")
		case !strings.HasSuffix(name, "/"):
			r.changed[name] = true
			new.WriteString(name + "\x00")
		case len(nested) < maxNested:
			nested = append(nested, name[:min(len(name), 500)])
		}
	}
	if len(r.changed) == 0 {
		return nested, nil
	}
	// What is gone goes first: a directory may have become a file.
	return nested, r.run(io.MultiReader(&changed, &new), nil, "update-index", "--add", "--remove", "-z", "--stdin")
}

// answer runs git and returns its answer without the newline at the end.
func (r *repo) answer(args ...string) (string, error) {
	var out bytes.Buffer
	err := r.run(nil, &out, args...)
	return strings.TrimSuffix(out.String(), "\n"), err
}

// run runs git in the repository.
func (r *repo) run(in io.Reader, out io.Writer, args ...string) error {
	all := append([]string{"-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.splitIndex=false", "-c", "core.safecrlf=false", "-c", "advice.addEmbeddedRepo=false", "-C", r.dir}, args...)
	cmd := exec.Command(r.git, all...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = in, out, &said, r.env
	err := cmd.Run()
	if err == nil {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	return fmt.Errorf("git %s: %w: %.300s", args[0], err, first)
}

// tidy is tidy DIR: it removes the files of a repository that git knows or doesn't ignore,
// and that aren't in the list that it reads: names with a zero byte after each.
func tidy(args []string, in io.Reader, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	list, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(list, []byte{0}) {
		return errors.New("the list has no end")
	}
	keep := map[string]bool{}
	for name := range bytes.SplitSeq(list, []byte{0}) {
		keep[string(name)] = true
	}
	r, err := openRepo(args[0])
	if err != nil || r == nil {
		return err
	}
	defer r.close()
	var there bytes.Buffer
	if err := r.run(nil, &there, "ls-files", "-c", "-o", "--exclude-standard", "-z"); err != nil {
		return err
	}
	var gone []string
	for name := range bytes.SplitSeq(there.Bytes(), []byte{0}) {
		if name := string(name); name != "" && !keep[name] && !strings.HasSuffix(name, "/") {
			gone = append(gone, name)
		}
	}
	return r.remove(gone)
}
