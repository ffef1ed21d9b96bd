package send

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/workspace/git"
)

// Tar writes the repository as a tar of the directory Name: a .git of its newest
// commit and the files with their present content, all owned by root. CodeUnavailable
// when a file changes its length while it is read.
func (r *Repo) Tar(ctx context.Context, w io.Writer) error {
	files, err := r.Files(ctx)
	if err != nil {
		return err
	}
	top, err := unix.Open(r.Top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return banger.Errorf(banger.CodeInvalid, "open %s: %w", r.Top, err)
	}
	defer func() { _ = unix.Close(top) }()
	b := bufio.NewWriterSize(w, 128<<10) // so that headers aren't sent one by one
	t := &tree{w: tar.NewWriter(b), name: r.Name, top: top, now: time.Now(), made: map[string]bool{}, readOnly: r.ReadOnly}
	if err := r.writeGit(ctx, t, files.index); err != nil {
		return err
	}
	for _, dir := range files.Submodules {
		if err := t.directory(dir); err != nil {
			return err
		}
	}
	if r.From != "" {
		if err := r.writeCommit(ctx, t, files.index); err != nil {
			return err
		}
		return errors.Join(t.w.Close(), b.Flush())
	}
	for _, file := range slices.Concat(files.Paths, files.Ignored) {
		if ctx.Err() != nil {
			return banger.Errorf(banger.CodeCanceled, "copy %s: %w", r.Name, context.Cause(ctx))
		}
		if err := t.add(file); err != nil {
			return err
		}
	}
	return errors.Join(t.w.Close(), b.Flush())
}

// tree is a tar that is being written.
type tree struct {
	w        *tar.Writer
	name     string // all entries are below it
	top      int    // the work tree, O_PATH
	now      time.Time
	made     map[string]bool // directories that have their entry
	readOnly bool            // files are
}

// directory writes a directory and those above it, once.
func (t *tree) directory(dir string) error {
	if t.made[dir] {
		return nil
	}
	t.made[dir] = true
	if dir != "." {
		if err := t.directory(path.Dir(dir)); err != nil {
			return err
		}
	}
	return t.w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: path.Join(t.name, dir) + "/", Mode: 0o755, ModTime: t.now, Uname: "root", Gname: "root",
	})
}

// header starts a regular file or, with a link, a symbolic link.
func (t *tree) header(name string, mode int64, size int64, link string, modified time.Time) error {
	if err := t.directory(path.Dir(name)); err != nil {
		return err
	}
	if t.readOnly && !strings.HasPrefix(name, ".git/") {
		mode &^= 0o222
	}
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: path.Join(t.name, name), Mode: mode, Size: size, Linkname: link,
		ModTime: modified, Uname: "root", Gname: "root", Format: tar.FormatPAX, // make(1) wants the nanoseconds
	}
	if link != "" {
		h.Typeflag = tar.TypeSymlink
	}
	return t.w.WriteHeader(h)
}

// bytes writes a file with the given content.
func (t *tree) bytes(name string, data []byte) error {
	if err := t.header(name, 0o644, int64(len(data)), "", t.now); err != nil {
		return err
	}
	_, err := t.w.Write(data)
	return err
}

// add writes one file of the work tree, unless it was deleted there. It opens the file
// first and looks at the descriptor, so that nobody can replace the file in between.
func (t *tree) add(name string) error {
	fd, err := unix.Openat2(t.top, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // deleted, or a directory above it became a file or a link
	case err != nil:
		return fmt.Errorf("open %q: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	modified := time.Unix(st.Mtim.Unix())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.copy(name, fd, st, modified)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			return fmt.Errorf("readlink %q: %w", name, err)
		}
		return t.header(name, 0o777, 0, string(target[:n]), modified)
	}
	return nil // a directory, socket or pipe in a file's place: git doesn't store those
}

func (t *tree) copy(name string, fd int, st unix.Stat_t, modified time.Time) error {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return banger.Errorf(banger.CodeInvalid, "read %q: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	mode := int64(0o644)
	if st.Mode&unix.S_IXUSR != 0 { // the one permission git knows
		mode = 0o755
	}
	if err := t.header(name, mode, st.Size, "", modified); err != nil {
		return err
	}
	n, err := io.Copy(t.w, io.LimitReader(f, st.Size))
	if err != nil {
		return fmt.Errorf("copy %q: %w", name, err)
	}
	if n < st.Size {
		return banger.Errorf(banger.CodeUnavailable, "%q became shorter while it was read", name).WithHint("try again")
	}
	return nil
}

// writeCommit writes the files of a commit as git stores them.
func (r *Repo) writeCommit(ctx context.Context, t *tree, index []indexEntry) error {
	var names bytes.Buffer
	for _, e := range index {
		if e.mode() != gitlink {
			names.WriteString(e.object() + "\n")
		}
	}
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := r.git.Call(ctx, git.Call{Args: []string{"cat-file", "--batch"}, Stdin: &names, Stdout: pw})
		_ = pw.CloseWithError(err)
		done <- err
	}()
	err := t.blobs(bufio.NewReaderSize(pr, 128<<10), index)
	_ = pr.CloseWithError(err)
	return errors.Join(err, unreadable(<-done))
}

// blobs writes the files of an index, whose content comes as git cat-file --batch gives it.
func (t *tree) blobs(in *bufio.Reader, index []indexEntry) error {
	for _, e := range index {
		if e.mode() == gitlink {
			continue
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		var name, kind string
		var size int64
		if n, _ := fmt.Sscanf(line, "%s %s %d", &name, &kind, &size); n != 3 || kind != "blob" {
			return banger.Errorf(banger.CodeInvalid, "git reads %.200q as %.100q", e.path, line).WithHint("git fsck says what is missing")
		}
		if err := t.blob(e, io.LimitReader(in, size), size); err != nil {
			return err
		}
		if _, err := in.Discard(1); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) blob(e indexEntry, in io.Reader, size int64) error {
	if e.mode() == "120000" {
		target, err := io.ReadAll(io.LimitReader(in, unix.PathMax))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, in)
		return errors.Join(t.header(e.path, 0o777, 0, string(target), t.now), err)
	}
	mode := int64(0o644)
	if e.mode() == "100755" {
		mode = 0o755
	}
	if err := t.header(e.path, mode, size, "", t.now); err != nil {
		return err
	}
	_, err := io.Copy(t.w, in)
	return err
}
