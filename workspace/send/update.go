package send

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest/work"
	"banger/host/hostfs"
	"banger/workspace/git"
)

// A copy that is in a guest already gets only what differs. The guest says what it has, file
// by file. That decides what is sent, and nothing else: a guest that lies has a wrong copy.

// Copy is what a guest says of its copy of a repository.
type Copy struct {
	work.Head
	index, files map[string]string // by path: "MODE OBJECT", in the index and in the work tree
	special      bool              // its index has what an update doesn't bring about: a conflict
	unwanted     map[string]bool   // skip-worktree
}

// Bounds of what a guest says of its copy: in bytes, and in files.
const (
	maxCopy  = 256 << 20
	maxFiles = 2_000_000
)

// ReadCopy reads what a guest says of its copy; see work.Plan. No name is longer than in's buffer.
func ReadCopy(in *bufio.Reader) (*Copy, error) {
	c := &Copy{index: map[string]string{}, files: map[string]string{}, unwanted: map[string]bool{}}
	if err := work.ReadLine(in, &c.Head); err != nil || !c.Git {
		return c, err
	}
	size, files := 0, 0
	next := func() (string, error) {
		line, err := in.ReadSlice(0) // no longer than its buffer
		size, files = size+len(line), files+1
		if size > maxCopy || files > maxFiles {
			err = banger.Errorf(banger.CodeInvalid, "the guest lists more than %d MiB or %d files of its copy", maxCopy>>20, maxFiles)
		}
		return strings.TrimSuffix(string(line), "\x00"), err
	}
	for {
		line, err := next()
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, err
		}
		what, stage := e.what()
		c.special = c.special || stage != "0"
		c.index[e.path], c.files[e.path] = what, what
		if e.unwanted {
			c.unwanted[e.path] = true
		}
	}
	for {
		line, err := next()
		if err != nil || line == "" {
			return c, err
		}
		e, err := parseEntry("H " + line)
		if err != nil {
			return nil, err
		}
		if what, _ := e.what(); e.mode() == "000000" {
			delete(c.files, e.path)
		} else {
			c.files[e.path] = what
		}
	}
}

// what is "MODE OBJECT", and the stage.
func (e indexEntry) what() (what, stage string) {
	i := strings.LastIndexByte(e.info, ' ')
	return e.info[:i], e.info[i+1:]
}

// ErrAnew is the error of an update that can't be: the repository is to be sent as a whole.
var ErrAnew = errors.New("the copy needs all of the repository")

// Update writes what a guest's copy lacks, as the tool "sync" reads it. known are commits that
// the copy may begin at: those that went there from here, or came from there. All of it is made
// before any of it is written: what fails here changes nothing there. ErrAnew if nothing was
// written, or the guest didn't take it.
func (r *Repo) Update(ctx context.Context, c *Copy, known []string, w io.Writer) error {
	here, err := r.snapshotFiles(ctx)
	if err != nil {
		return err
	}
	h, err := r.newest(ctx)
	if err != nil {
		return err
	}
	if !c.Git || c.special || h.Commit == "" || !slices.Contains(known, c.Head.Head) || !r.git.Has(ctx, c.Head.Head) {
		return ErrAnew
	}
	list, err := r.Files(ctx)
	if err != nil {
		return err
	}
	u, err := r.differs(list, here, c)
	if err != nil {
		return err
	}
	dir, remove, err := hostfs.Scratch(ctx, git.Scratches())
	if err != nil {
		return err
	}
	defer remove()
	p := work.Plan{Head: h.Commit, Branch: h.Branch, Index: int64(u.index.Len()), Remove: int64(u.remove.Len()), Replace: u.replace.Bytes()}
	spool := func(name string, write func(w io.Writer) error) (f *os.File, size int64, err error) {
		if f, err = os.Create(filepath.Join(dir, name)); err != nil {
			return nil, 0, err
		}
		if err = write(f); err == nil {
			size, err = f.Seek(0, io.SeekCurrent)
		}
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, size, nil
	}
	pack, size, err := spool("pack", func(w io.Writer) (err error) {
		p.Shallow, err = r.packSince(ctx, c.Head.Head, h.Commit, u.objects.Bytes(), w)
		return err
	})
	if err != nil {
		return err
	}
	defer pack.Close()
	p.Pack = size
	files, size, err := spool("files", func(w io.Writer) error { return r.tarOf(ctx, w, u) })
	if err != nil {
		return err
	}
	defer files.Close()
	p.Tar = size
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(append(line, '\n')), pack, &u.index, &u.remove, files)); err != nil {
		return fmt.Errorf("%w: %w", ErrAnew, err)
	}
	return nil
}

// update is what differs.
type update struct {
	send           []string     // files of the work tree
	commit         []indexEntry // of them, those of a commit that goes in place of the checkout
	dirs           []string
	objects, index bytes.Buffer // blobs of the index that the guest may lack; lines of an index
	remove         bytes.Buffer
	replace        bytes.Buffer // names of send and commit
}

// differs compares this repository with a guest's copy.
func (r *Repo) differs(files Files, here map[string]string, c *Copy) (*update, error) {
	u := &update{dirs: files.Submodules}
	stays := map[string]bool{}
	for _, e := range files.index {
		what, stage := e.what()
		if stage != "0" || e.unwanted != c.unwanted[e.path] {
			return nil, ErrAnew
		}
		stays[e.path] = true
		if c.index[e.path] == what {
			continue
		}
		if e.unwanted {
			return nil, ErrAnew // git would put it there
		}
		u.index.WriteString(e.info + "\t" + e.path + "\x00")
		if e.mode() != gitlink {
			u.objects.WriteString(e.object() + "\n")
		}
	}
	for path, what := range c.index {
		if !stays[path] {
			_, object, _ := strings.Cut(what, " ")
			u.index.WriteString("0 " + strings.Repeat("0", len(object)) + "\t" + path + "\x00")
		}
	}
	if r.From != "" {
		for _, e := range files.index {
			if what, _ := e.what(); e.mode() != gitlink && c.files[e.path] != what {
				u.commit = append(u.commit, e)
				u.replace.WriteString(e.path + "\x00")
			}
		}
	}
	stays = map[string]bool{}
	for _, path := range slices.Concat(files.Paths, files.Ignored) {
		stays[path] = r.From != "" || here[path] != "" || exists(filepath.Join(r.Top, path))
		if r.From == "" && (here[path] == "" || here[path] != c.files[path]) {
			u.send = append(u.send, path)
			u.replace.WriteString(path + "\x00")
		}
	}
	for path, what := range c.files {
		if !stays[path] && !strings.HasPrefix(what, gitlink) && !c.unwanted[path] {
			u.remove.WriteString(path + "\x00")
		}
	}
	return u, nil
}

// packSince packs what a copy at one commit lacks of another one, and these objects. It returns
// the commits whose parents don't go.
func (r *Repo) packSince(ctx context.Context, from, to string, objects []byte, w io.Writer) (cut []string, err error) {
	in := bytes.NewBuffer(objects)
	args := []string{"pack-objects", "-q", "--revs", "--thin", "--stdout", "--delta-base-offset", "--window=0"}
	if from != to {
		if _, err := r.git.Run(ctx, nil, "merge-base", "--is-ancestor", from, to); err != nil { // as much history as otherwise
			if _, cut, err = r.history(ctx, to); err != nil {
				return nil, err
			}
			args = append(args, "--shallow")
		}
		for _, c := range cut {
			in = bytes.NewBuffer(append([]byte("--shallow "+c+"\n"), in.Bytes()...))
		}
		in.WriteString(to + "\n--not\n" + from + "\n")
	}
	if in.Len() == 0 {
		return nil, nil
	}
	return cut, unreadable(r.git.Call(ctx, git.Call{Args: args, Stdin: in, Stdout: w}))
}

// tarOf writes the files.
func (r *Repo) tarOf(ctx context.Context, w io.Writer, u *update) error {
	top, err := unix.Open(r.Top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return banger.Errorf(banger.CodeInvalid, "open %s: %w", r.Top, err)
	}
	defer func() { _ = unix.Close(top) }()
	b := bufio.NewWriterSize(w, 128<<10)
	t := &tree{w: tar.NewWriter(b), name: "copy", top: top, now: time.Now(), made: map[string]bool{}, readOnly: r.ReadOnly}
	for _, dir := range u.dirs {
		if err := t.directory(dir); err != nil {
			return err
		}
	}
	if len(u.commit) > 0 {
		if err := r.writeCommit(ctx, t, u.commit); err != nil {
			return err
		}
	}
	for _, file := range u.send {
		if ctx.Err() != nil {
			return banger.Errorf(banger.CodeCanceled, "copy %s: %w", r.Name, context.Cause(ctx))
		}
		if err := t.add(file); err != nil {
			return err
		}
	}
	return errors.Join(t.w.Close(), b.Flush())
}
