package take

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"banger/workspace/git"
)

// maxNesting bounds how deep directories are nested.
const maxNesting = 500

// maxTree bounds a directory, in bytes: over a million names.
const maxTree = 64 << 20

// trees counts the files of directories. A small pack can name one directory so often that
// nobody could ever write the files.
type trees struct {
	below map[string][]string // the directories of each that was sent
	files map[string]int64    // how many entries each has
	total map[string]int64    // and with all below
	deep  map[string]int
	most  int64
	named int // in all of below
}

// maxNamed bounds how many directories all that were sent name: a delta of a few bytes makes
// another directory with a million names.
const maxNamed = 16 << 20

// checkTrees reads all directories that the guest sent. git has looked at their names
// (git-fsck(1)): nothing is called .git, in no spelling that any file system takes for it.
func (w receiver) checkTrees(ctx context.Context, sent map[string]object) error {
	t := &trees{below: map[string][]string{}, files: map[string]int64{}, total: map[string]int64{}, deep: map[string]int{}, most: w.limits.Paths}
	var names bytes.Buffer
	for name, o := range sent {
		if o.kind == "tree" {
			names.WriteString(name + "\n")
			if o.size > maxTree {
				return refuse("a directory of it has %d bytes of names", o.size)
			}
		}
	}
	if names.Len() == 0 {
		return nil
	}
	r, pw := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := t.read(bufio.NewReaderSize(r, 1<<20), w.bare.Format)
		_ = r.CloseWithError(err)
		read <- err
	}()
	err := w.bare.Call(ctx, git.Call{Args: []string{"cat-file", "--batch"}, Stdin: &names, Stdout: pw})
	_ = pw.CloseWithError(io.EOF)
	if rerr := <-read; rerr != nil {
		return rerr
	}
	if err != nil {
		return err
	}
	for name := range t.below {
		if _, _, err := t.count(name, 0); err != nil {
			return err
		}
	}
	return nil
}

// read reads what git cat-file --batch says of trees.
func (t *trees) read(in *bufio.Reader, format string) error {
	width := 20
	if format == "sha256" {
		width = 32
	}
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF && line == "" {
			return nil
		}
		var name, kind string
		var size int64
		if n, _ := fmt.Sscanf(line, "%s %s %d", &name, &kind, &size); n != 3 || kind != "tree" {
			return refuse("git reads a directory of it as %.100q", line)
		}
		data := make([]byte, size+1)
		if _, err := io.ReadFull(in, data); err != nil {
			return err
		}
		if t.below[name], t.files[name], err = parseTree(data[:size], width); err != nil {
			return err
		}
		if t.named += len(t.below[name]); t.named > maxNamed {
			return refuse("its directories name more than %d directories", maxNamed)
		}
	}
}

// parseTree returns the directories that a tree object names, and how many entries it has.
func parseTree(data []byte, width int) (below []string, entries int64, err error) {
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte(" "))
		name, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 || len(rest) < width {
			return nil, 0, refuse("a directory of it is cut off")
		}
		if len(name) == 0 || bytes.ContainsRune(name, '/') || string(name) == "." || string(name) == ".." || strings.EqualFold(string(name), ".git") {
			return nil, 0, refuse("a file of it is called %.100q", name)
		}
		switch string(mode) {
		case "40000":
			below = append(below, hex.EncodeToString(rest[:width]))
		case "100644", "100755", "120000", "160000", "100664":
		default:
			return nil, 0, refuse("%.100q has the mode %.20q", name, mode)
		}
		entries++
		data = rest[width:]
	}
	return below, entries, nil
}

// count returns how many entries a directory has with all below, and how deep it is. One
// that wasn't sent is the host's own, and counts once.
func (t *trees) count(name string, depth int) (n int64, deep int, err error) {
	if n, ok := t.total[name]; ok {
		return n, t.deep[name], nil
	}
	dirs, ok := t.below[name]
	if !ok {
		return 1, 1, nil
	}
	n = t.files[name]
	for _, d := range dirs {
		if depth > maxNesting {
			break
		}
		more, below, err := t.count(d, depth+1)
		if err != nil {
			return 0, 0, err
		}
		n, deep = n+more, max(deep, below)
		if n > t.most {
			return 0, 0, refuse("a commit of it has more than %d files", t.most)
		}
	}
	if deep++; depth > maxNesting || deep > maxNesting {
		return 0, 0, refuse("its directories are nested more than %d deep", maxNesting)
	}
	t.total[name], t.deep[name] = n, deep
	return n, deep, nil
}

// checkLinks refuses repositories in the repository that weren't there before: their
// commits don't come along, and what they name would be fetched by whoever checks this out.
func (w receiver) checkLinks(ctx context.Context) error {
	for _, name := range []string{w.Head, w.Tip} {
		if name == "" {
			continue
		}
		changes, err := w.diff(ctx, w.Base, name)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if c.NewMode == "160000" && c.OldMode != "160000" {
				return refuse("%.200q is a repository of its own there, and was none before", string(c.Path))
			}
		}
	}
	return nil
}
