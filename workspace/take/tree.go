package take

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger"
	"banger/guest/tartree"
	"banger/workspace/git"
)

// readTree receives the files of a guest without git as a tar, and makes one commit of them
// on the base. git hashes them; no program that a repository could name runs, since the
// throw-away repository's configuration names none.
func (w receiver) readTree(ctx context.Context, in io.Reader) error {
	dir := filepath.Join(w.bare.Dir, "files")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r, pw := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := w.clean(pw, in)
		_ = pw.CloseWithError(err)
		copied <- err
	}()
	err := tartree.Unpack(r, tartree.Place{Dir: dir, Foreign: true})
	_ = r.CloseWithError(errors.Join(io.ErrClosedPipe, err))
	if cerr := <-copied; cerr != nil && !errors.Is(cerr, io.ErrClosedPipe) {
		return cerr
	}
	if err != nil {
		return refuse("%w", err)
	}
	call := func(args ...string) error {
		return w.bare.Call(ctx, git.Call{Args: args, Env: []string{"GIT_WORK_TREE=" + dir}, Bounds: w.bounds()})
	}
	if w.Base != "" {
		if err := call("read-tree", w.Base); err != nil {
			return err
		}
	}
	if err := w.keepModules(ctx, dir); err != nil {
		return err
	}
	if err := call("add", "-A"); err != nil {
		return refuse("%w", err)
	}
	tree, err := w.bare.Line(ctx, "write-tree")
	if err != nil {
		return err
	}
	w.Head = w.Base
	return w.commitTree(ctx, tree)
}

// commitTree makes a commit of a tree on the base, if it differs.
func (w receiver) commitTree(ctx context.Context, tree string) error {
	old, err := w.treeOf(ctx, w.Base)
	if err != nil {
		return err
	}
	if w.Tip = w.Base; tree == old {
		return nil
	}
	args := []string{"commit-tree", tree, "-m", "Work in a VM without git"}
	if w.Base != "" {
		args = append(args, "-p", w.Base)
	}
	env := []string{"GIT_AUTHOR_NAME=banger", "GIT_AUTHOR_EMAIL=banger@localhost", "GIT_COMMITTER_NAME=banger", "GIT_COMMITTER_EMAIL=banger@localhost"}
	var line strings.Builder
	err = w.bare.Call(ctx, git.Call{Args: args, Env: env, Stdout: &line})
	w.Tip = strings.TrimSpace(line.String())
	return err
}

// keepModules keeps submodules out: the guest has their files, but not their commits.
func (w receiver) keepModules(ctx context.Context, dir string) error {
	out, err := w.bare.Run(ctx, nil, "ls-files", "-s", "-z")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(out), "\x00") {
		info, name, _ := strings.Cut(line, "\t")
		if !strings.HasPrefix(info, "160000 ") {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		if err = root.RemoveAll(name); err == nil {
			err = root.MkdirAll(name, 0o700)
		}
		if err = errors.Join(err, root.Close()); err != nil {
			return refuse("%w", err)
		}
	}
	return nil
}

// clean copies a tar without anything called .git, and without what would be no file of a
// repository: git itself would never read it as one.
func (w receiver) clean(to io.Writer, from io.Reader) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	var total int64
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			if _, ours := errors.AsType[*banger.Error](err); ours {
				return err
			}
			return refuse("its tar: %w", err)
		}
		if total += h.Size; int64(n) > w.limits.Paths || total > w.limits.Files {
			return refuse("it has more than %d files or %d bytes", w.limits.Paths, w.limits.Files)
		}
		if git.IsGit(path.Clean(h.Name)) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
		default:
			continue
		}
		mode := h.Mode&0o111 | 0o600
		if h.Typeflag == tar.TypeDir {
			mode = 0o700 // or git couldn't read it, nor anybody remove it
		}
		if err := out.WriteHeader(&tar.Header{Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Size: h.Size, Mode: mode, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
