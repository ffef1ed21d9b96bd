package take

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger"
	"banger/workspace/git"
)

// bounds are those of a git that reads what the guest wrote.
func (w *Work) bounds() *git.Bounds {
	return &git.Bounds{Memory: 3 << 30, File: w.limits.Files, CPU: w.limits.Time}
}

// severities are what git's check of objects takes for an error, beyond what it does itself.
const severities = "--strict=badFilemode=error,gitmodulesUpdate=error,gitmodulesParse=error"

// readPack receives a pack into the throw-away repository. git checks each object, and that
// what they name is here.
func (w receiver) readPack(ctx context.Context, in *bufio.Reader) error {
	const header = 12 // "PACK", a version, and how many objects come: git reads so many
	if start, err := in.Peek(header); err == nil && int64(binary.BigEndian.Uint32(start[8:])) > int64(w.limits.Objects) {
		return refuse("it has more than %d objects", w.limits.Objects)
	}
	r, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	fed := make(chan error, 1)
	go func() {
		_, err := io.Copy(pipe, in)
		if errors.Is(err, os.ErrClosed) || isBroken(err) { // git has read all that it wants
			err = nil
			if n, _ := in.Read(make([]byte, 1)); n > 0 {
				err = refuse("it goes on after its pack")
			}
		}
		_ = pipe.Close()
		fed <- err
	}()
	strict := severities
	if w.Host.Partial(ctx) {
		strict = "--fsck-objects" // not all that the base names is here
	}
	err = w.bare.Call(ctx, git.Call{Args: []string{"index-pack", "--stdin", strict, fmt.Sprintf("--max-input-size=%d", w.limits.Bytes)}, Stdin: r, Bounds: w.bounds()})
	_ = r.Close()
	if err != nil && banger.CodeOf(err) == banger.CodeInternal {
		err = refuse("%w", err)
	}
	if err != nil {
		return err // what feeds ends when the guest's stream is closed
	}
	return <-fed
}

// isBroken reports whether nobody reads a pipe any more.
func isBroken(err error) bool {
	return err != nil && strings.Contains(err.Error(), "broken pipe")
}

// check finds out whether what was received is what the guest says, and no bomb.
func (w receiver) check(ctx context.Context) error {
	objects, err := w.objects(ctx)
	if err != nil {
		return err
	}
	if err := w.checkTrees(ctx, objects); err != nil {
		return err
	}
	for _, name := range []string{w.Head, w.Tip} {
		if name == "" {
			continue
		}
		if kind, err := w.bare.Line(ctx, "cat-file", "-t", name); err != nil || kind != "commit" {
			return refuse("%.12s is no commit that it sent", name)
		}
	}
	if err := w.checkCommits(ctx, objects); err != nil {
		return err
	}
	// What each object names is here: git index-pack has looked. That all can be reached is
	// looked at once more, since everything after this relies on it.
	if !w.Host.Partial(ctx) {
		if err := w.bare.Call(ctx, git.Call{Args: w.since("rev-list", "--objects", "--quiet"), Bounds: w.bounds()}); err != nil {
			return refuse("its history has holes: %w", err)
		}
	}
	return w.checkLinks(ctx)
}

// since adds to a git command the commits that are the guest's.
func (w *Work) since(args ...string) []string {
	args = append(args, w.Tip)
	if w.Base != "" {
		args = append(args, "^"+w.Base)
	}
	return args
}

// object is what the guest sent, by its name.
type object struct {
	kind string
	size int64
}

// objects lists what the guest sent.
func (w receiver) objects(ctx context.Context) (map[string]object, error) {
	all := map[string]object{}
	packs, err := filepath.Glob(filepath.Join(w.bare.Dir, "objects/pack/*.idx"))
	if err != nil {
		return nil, err
	}
	var names bytes.Buffer
	for _, p := range packs {
		f, err := os.Open(p)
		if err != nil {
			return nil, err
		}
		list, err := w.bare.Run(ctx, f, "show-index", "--object-format="+w.bare.Format)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(list)) {
			if f := strings.Fields(line); len(f) >= 2 {
				names.WriteString(f[1] + "\n")
			}
		}
	}
	out, err := w.bare.Run(ctx, &names, "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)")
	if err != nil {
		return nil, err
	}
	var total int64
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, refuse("git can't find what it sent: %.100q", line)
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, err
		}
		total += size
		all[f[0]] = object{f[1], size}
		if len(all) > w.limits.Objects {
			return nil, refuse("it has more than %d objects", w.limits.Objects)
		}
	}
	if total > w.limits.Files {
		return nil, refuse("unpacked it has %d bytes, more than %d", total, w.limits.Files)
	}
	return all, nil
}

// checkCommits makes sure that every commit since the base was sent, and that the newest
// is made of the guest's newest.
func (w receiver) checkCommits(ctx context.Context, sent map[string]object) error {
	out, err := w.bare.Run(ctx, nil, w.since("rev-list")...)
	if err != nil {
		return refuse("its history can't be read: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		if _, ok := sent[name]; !ok {
			return refuse("its history names the commit %.12s, which it neither got nor sent", name)
		}
	}
	parents, err := w.bare.Line(ctx, "rev-list", "--parents", "-n", "1", w.Tip)
	if err != nil {
		return err
	}
	if w.Tip != w.Head && parents != strings.TrimSpace(w.Tip+" "+w.Head) {
		return refuse("its newest files aren't those of its newest commit")
	}
	return nil
}
