package tool

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/guest/tartree"
	"banger/guest/work"
)

// syncRepo is sync DIR: it says what there is of a repository, reads what is to change, and
// changes that; see work.Plan.
func syncRepo(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	from := bufio.NewReaderSize(in, 128<<10)
	return tell(args[0], out, func(r *repo, h *work.Head) error { return r.look(h) }, func(r *repo, h work.Head) error {
		if r == nil {
			return nil
		}
		if err := r.list(out); err != nil {
			return err
		}
		line, err := from.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil // no plan
		}
		if err != nil {
			return err
		}
		var p work.Plan
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		done, err := r.apply(h, p, from)
		if err != nil {
			return err
		}
		line, err = json.Marshal(done)
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		return err
	})
}

// list writes the two lists.
func (r *repo) list(out io.Writer) error {
	if err := r.there(out, "ls-files", "-s", "-t", "-z"); err != nil {
		return err
	}
	b := bufio.NewWriterSize(out, 128<<10)
	_ = b.WriteByte(0)
	if len(r.changed) > 0 {
		var now bytes.Buffer
		if err := r.run(nil, &now, "ls-files", "-s", "-z"); err != nil {
			return err
		}
		gone := maps.Clone(r.changed)
		for entry := range bytes.SplitSeq(now.Bytes(), []byte{0}) {
			if _, path, ok := bytes.Cut(entry, []byte{'\t'}); ok && r.changed[string(path)] {
				delete(gone, string(path))
				_, _ = b.Write(append(entry[:len(entry):len(entry)], 0))
			}
		}
		for path := range gone {
			_, _ = b.WriteString("000000 - 0\t" + path + "\x00")
		}
	}
	_ = b.WriteByte(0)
	return b.Flush()
}

// there runs git on the repository itself, with its own index and objects.
func (r *repo) there(out io.Writer, args ...string) error {
	return (&repo{git: r.git, dir: r.dir}).run(nil, out, args...)
}

// apply changes the repository as the plan says: objects first, that nothing names yet, then
// files, the index, and at last its branch.
func (r *repo) apply(h work.Head, p work.Plan, in *bufio.Reader) (s work.Synced, err error) {
	own := &repo{git: r.git, dir: r.dir}
	pack := io.LimitReader(in, p.Pack)
	if p.Pack > 0 {
		if err := own.run(pack, nil, "index-pack", "--stdin", "--fix-thin"); err != nil {
			return s, err
		}
	}
	index, err := part(in, p.Index)
	if err != nil {
		return s, err
	}
	remove, err := part(in, p.Remove)
	if err != nil {
		return s, err
	}
	if p.Head != h.Head {
		if err := own.shallow(p.Shallow); err != nil {
			return s, err
		}
		revs := []string{"rev-list", "--objects", "--quiet", p.Head}
		if h.Head != "" {
			revs = append(revs, "^"+h.Head)
		}
		if err := own.run(nil, nil, revs...); err != nil {
			return s, err
		}
	}
	if moved, err := r.moved(h); err != nil || moved {
		s.Changed = []string{"HEAD"}
		return s, err
	}
	if s.Changed, err = r.since(slices.Concat(names(remove), names(p.Replace))); err != nil || len(s.Changed) > 0 {
		return s, err
	}
	if err := r.remove(names(remove)); err != nil {
		return s, err
	}
	if err := r.unpack(in, p.Tar); err != nil {
		return s, err
	}
	if len(index) > 0 {
		if err := own.run(bytes.NewReader(index), nil, "update-index", "-z", "--index-info"); err != nil {
			return s, err
		}
	}
	s.Done = true
	return s, own.moveTo(h, p)
}

// tarName is what the tar calls the directory.
const tarName = "copy"

// unpack makes the files of a tar of this size. One that is cut off between two files looks
// whole to whoever reads it.
func (r *repo) unpack(in io.Reader, size int64) error {
	if size <= 0 {
		return errors.New("the plan has no size of its tar")
	}
	files := &io.LimitedReader{R: in, N: size}
	err := tartree.Unpack(files, tartree.Place{Dir: filepath.Dir(r.dir), From: tarName, As: filepath.Base(r.dir)})
	if err == nil {
		_, err = io.Copy(io.Discard, files)
	}
	if err == nil && files.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func part(in io.Reader, size int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, size))
	if err == nil && int64(len(text)) < size {
		err = io.ErrUnexpectedEOF
	}
	return text, err
}

// names are those of a list with a zero byte after each.
func names(list []byte) (all []string) {
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" {
			all = append(all, name)
		}
	}
	return all
}

// shallow adds commits to those whose parents aren't there.
func (r *repo) shallow(more []string) error {
	if len(more) == 0 {
		return nil
	}
	file, err := r.answer("rev-parse", "--path-format=absolute", "--git-path", "shallow")
	if err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := append(strings.Fields(string(old)), more...)
	slices.Sort(all)
	text := strings.Join(slices.Compact(all), "\n") + "\n"
	if err := os.WriteFile(file+".banger", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".banger", file)
}

// mostNames bounds how many names are put on a command line.
const mostNames = 500

// moved reports whether HEAD isn't where it was.
func (r *repo) moved(h work.Head) (bool, error) {
	branch, _ := r.answer("symbolic-ref", "-q", "HEAD") // none: detached
	if branch != h.Branch {
		return true, nil
	}
	at, err := r.answer("rev-parse", "HEAD^{commit}")
	return at != h.Head, err
}

// since returns which of these files have changed, or come, since they were looked at.
func (r *repo) since(files []string) (changed []string, err error) {
	if len(files) == 0 {
		return nil, nil
	}
	args := []string{"--literal-pathspecs", "ls-files", "-m", "-d", "-o", "--exclude-standard", "-z"}
	if len(files) <= mostNames {
		args = append(append(args, "--"), files...)
	}
	var out bytes.Buffer
	if err := r.run(nil, &out, args...); err != nil {
		return nil, err
	}
	of := map[string]bool{}
	for _, name := range files {
		of[name] = true
	}
	for _, name := range slices.Compact(names(out.Bytes())) {
		if len(changed) < maxNested && of[name] {
			changed = append(changed, name[:min(len(name), 200)])
		}
	}
	return changed, nil
}

// moveTo brings HEAD to the plan's branch and commit. No hook runs.
func (r *repo) moveTo(h work.Head, p work.Plan) error {
	const hooks = "core.hooksPath=/dev/null"
	if p.Branch != "" && p.Branch != h.Branch {
		if err := r.run(nil, nil, "-c", hooks, "symbolic-ref", "-m", "banger: sync", "HEAD", p.Branch); err != nil {
			return err
		}
	}
	if p.Head == h.Head && p.Branch == h.Branch {
		return nil
	}
	ref := p.Branch
	if ref == "" {
		ref = "HEAD"
	}
	args := []string{"-c", hooks, "update-ref", "--no-deref", "-m", "banger: sync", ref, p.Head}
	if p.Branch == h.Branch {
		args = append(args, h.Head) // git refuses if it isn't there any more
	}
	return r.run(nil, nil, args...)
}

// remove removes files, and the directories that are empty then.
func (r *repo) remove(files []string) error {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range files {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		for dir := filepath.Dir(name); dir != "." && root.Remove(dir) == nil; dir = filepath.Dir(dir) { // those that are empty now
		}
	}
	return nil
}

// settle is settle DIR: git looks at the files of a new copy, and writes into its index that
// they are as they should be. Without git there is nothing to do.
func settle(args []string, _ io.Reader, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	r, err := openRepo(args[0])
	if err != nil || r == nil {
		return err
	}
	defer r.close()
	own := &repo{git: r.git, dir: r.dir}
	if err := own.run(nil, nil, "update-index", "-q", "--refresh"); err != nil && !strings.Contains(err.Error(), "exit status 1") { // 1: some differ
		return fmt.Errorf("look at the files: %w", err)
	}
	_ = own.run(nil, nil, "write-tree") // it keeps the directories' names there; a merge that isn't finished has none
	return nil
}
