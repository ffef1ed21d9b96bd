// Package take takes the work in a guest's copy of a repository back to this host. A guest
// is hostile: what it sends is received in a throw-away repository, within bounds, and
// checked there. Only what was found well goes into the user's repository, to refs of
// banger's own. The user's files are never touched.
//
// It owns what is refused and why. It knows nothing of how a guest is reached, and nothing
// of merging.
package take

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"banger"
	"banger/guest/work"
	"banger/host/hostfs"
	"banger/workspace/git"
)

// Limits bound what a guest can make this host hold and do.
type Limits struct {
	Bytes   int64         // that it sends
	Files   int64         // bytes of all objects, unpacked
	Objects int           // that it sends
	Paths   int64         // files that a tree of it has, however often one is named
	Silence time.Duration // for which it may send nothing
	Time    time.Duration // that all of it takes
}

// Usual are the limits if a user says nothing else.
var Usual = Limits{Bytes: 4 << 30, Files: 16 << 30, Objects: 3_000_000, Paths: 3_000_000, Silence: 5 * time.Minute, Time: time.Hour}

// Work is a guest's work that was found well. It is in a throw-away repository until Close.
type Work struct {
	Host   *git.Repo
	Base   string   // what the host had; "" if it had no commit
	Head   string   // the guest's newest commit; "" before the first
	Tip    string   // a commit of the files as they are, on Head; "": there is nothing
	Branch string   // the guest's; its word
	Nested []string // repositories in the repository, which stay behind; the guest's word
	Others []string // branches, and the stash, with commits that Head hasn't, which stay behind; the guest's word
	Git    bool     // the guest has git: its commits are kept

	bare   *git.Bare
	limits Limits
	remove func()
}

// Source writes the work of a guest since a commit: a work.Head, and what comes after.
type Source func(ctx context.Context, base string, w io.Writer) error

// Take receives work and checks it. CodeInvalid when it is refused, CodeTimeout when it
// takes too long. The caller closes what it gets.
func Take(ctx context.Context, r banger.Repository, from Source, limits Limits) (_ *Work, err error) {
	host, err := git.Open(ctx, r.Path)
	if err != nil {
		return nil, err
	}
	if host.Format != r.Format {
		return nil, banger.Errorf(banger.CodeConflict, "%s has objects of %s now, and had %s when it went in", r.Path, host.Format, r.Format)
	}
	if r.Base != "" && !host.Has(ctx, r.Base) {
		return nil, banger.Errorf(banger.CodeConflict, "%s no longer has the commit %.12s, which went into the VM", r.Path, r.Base).
			WithHint("git fetch may bring it back; `banger cp` copies files out of the VM whatever became of the repository")
	}
	dir, remove, err := hostfs.Scratch(ctx, git.Scratches())
	if err != nil {
		return nil, err
	}
	w := &Work{Host: host, Base: r.Base, limits: limits, remove: remove}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.bare, err = git.NewBare(ctx, dir, host.Format, host.Objects()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Time, errLong)
	defer cancel()
	if err := (receiver{w}).receive(ctx, from); err != nil {
		if errors.Is(context.Cause(ctx), errLong) {
			err = errLong
		}
		return nil, err
	}
	return w, nil
}

var errLong = banger.Errorf(banger.CodeTimeout, "the guest's work takes too long")

// Close removes the throw-away repository.
func (w *Work) Close() { w.remove() }

// receiver fills in a Work while its guest sends it.
type receiver struct{ *Work }

// receive reads all that the guest sends.
func (w receiver) receive(ctx context.Context, from Source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := from(ctx, w.Base, pw)
		_ = pw.CloseWithError(err)
		sent <- err
	}()
	in := newWatched(pr, w.limits, cancel)
	defer in.stop()
	err := w.read(ctx, bufio.NewReaderSize(in, work.MaxHead))
	_ = pr.CloseWithError(errors.Join(io.ErrClosedPipe, err))
	if err != nil {
		cancel(err)
	}
	in.wait()
	if serr := <-sent; serr != nil && (err == nil || !errors.Is(serr, io.ErrClosedPipe)) && ctx.Err() == nil {
		return serr // the cause: reading only saw its stream break
	}
	if refused, ok := errors.AsType[*banger.Error](context.Cause(ctx)); ok {
		return refused
	}
	return err
}

// read reads the line and then the pack or the tar, and checks what is there afterwards.
func (w receiver) read(ctx context.Context, in *bufio.Reader) error {
	h, err := readHead(in)
	if err != nil {
		return err
	}
	w.Git, w.Branch, w.Nested, w.Others = h.Git, h.Branch, h.Nested, h.Others
	if !h.Git {
		return w.readTree(ctx, in)
	}
	for _, name := range []string{h.Head, h.Work} {
		if name != "" && !w.isName(name) {
			return refuse("it calls a commit %.80q", name)
		}
	}
	if h.Work == "" {
		return nil
	}
	if err := w.readPack(ctx, in); err != nil {
		return err
	}
	w.Head, w.Tip = h.Head, h.Work
	return w.check(ctx)
}

func readHead(in *bufio.Reader) (h work.Head, err error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return h, refuse("its first line has no end")
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &h); err != nil {
		return h, refuse("its first line can't be read: %w", err)
	}
	return h, nil
}

// isName reports whether s can be the name of an object.
func (w receiver) isName(s string) bool {
	length := 40
	if w.bare.Format == "sha256" {
		length = 64
	}
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}

// refuse is the error of what a guest sent.
func refuse(format string, args ...any) error {
	return banger.Errorf(banger.CodeInvalid, "the guest's work is refused: "+format, args...)
}

// watched reads from a guest within the limits: it ends the context with the reason when
// they are passed.
type watched struct {
	io.Reader
	left   int64
	timer  *time.Timer
	pause  time.Duration
	cancel context.CancelCauseFunc
}

func newWatched(r io.Reader, l Limits, cancel context.CancelCauseFunc) *watched {
	w := &watched{Reader: r, left: l.Bytes, pause: l.Silence, cancel: cancel}
	w.timer = time.AfterFunc(l.Silence, func() {
		cancel(banger.Errorf(banger.CodeTimeout, "the guest has sent nothing for %s", l.Silence).WithHint("banger cp copies files out of the VM"))
		if c, ok := r.(io.Closer); ok {
			_ = c.Close()
		}
	})
	return w
}

func (w *watched) stop() { w.timer.Stop() }

// wait begins the time in which something must come. It doesn't run while this host works.
func (w *watched) wait() { w.timer.Reset(w.pause) }

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.wait()
	n, err := w.Reader.Read(p)
	w.stop()
	if w.left -= int64(n); w.left < 0 {
		err := banger.Errorf(banger.CodeInvalid, "the guest's work is refused: it is larger than the bound").WithHint("--max-size 20G takes more")
		w.cancel(err)
		return 0, err
	}
	return n, err
}
