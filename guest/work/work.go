// Package work asks a guest for the work in its copy of a repository, and says in which
// form it comes.
package work

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"banger/guest"
)

// Head is the first line of what the tool "work" writes, as JSON: what there is of a
// repository's work in a guest. After it comes, with Git, a pack of all objects of Work that
// Base hasn't; else a tar of the directory without anything called .git. It is a guest's
// word: nothing in it is trusted.
type Head struct {
	Git    bool   `json:"git"`              // the guest has git, and the directory is a repository
	Head   string `json:"head,omitempty"`   // its newest commit; "" before the first
	Branch string `json:"branch,omitempty"` // full name of the branch it is on; "" when detached
	// Work is a commit of the files as they are, on Head; Head itself if no file differs
	// from it; "" if there is neither a commit nor a file.
	Work string `json:"work,omitempty"`
	Tree string `json:"tree,omitempty"` // of Work
	// Nested are repositories inside of this one, whose files aren't in Work.
	Nested []string `json:"nested,omitempty"`
	// Others are branches, and the stash, with commits that Head hasn't. They don't come along.
	Others []string `json:"others,omitempty"`
}

// CopyIndex copies a repository's index, if there is one, with its time: git takes a file that
// was changed as late as the index for one that may have changed since.
func CopyIndex(from, to string) error {
	info, err := os.Stat(from) // before reading: an earlier time only makes git look twice
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, info.ModTime())
}

// MaxHead bounds the line of a Head, in bytes.
const MaxHead = 64 << 10

// Take writes the work in a directory of the guest to w, as Head says. base is the
// commit that the other side has; "" for none. CodeNotFound when there is no such directory.
func Take(ctx context.Context, c *guest.Client, dir, base string, w io.Writer) error {
	return c.Tool(ctx, guest.ExecSpec{Tool: "work", Argv: []string{"work", dir, base}, Dir: "/"}, guest.IO{Stdout: w})
}

// State returns only the Head. Older agents refuse it, and Take.
func State(ctx context.Context, c *guest.Client, dir string) (h Head, err error) {
	var line bounded
	if err := c.Tool(ctx, guest.ExecSpec{Tool: "workstate", Argv: []string{"workstate", dir}, Dir: "/"}, guest.IO{Stdout: &line}); err != nil {
		return h, err
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, guest.Errorf(guest.CodeInternal, "its work is told in no line of JSON: %v", err)
	}
	return h, nil
}

// Tidy removes the files of a repository in the guest that git knows or doesn't ignore and
// that aren't in a list of names, each with a zero byte after it. Without git nothing is
// removed.
func Tidy(ctx context.Context, c *guest.Client, dir string, names io.Reader) error {
	return c.Tool(ctx, guest.ExecSpec{Tool: "tidy", Argv: []string{"tidy", dir}, Dir: "/", Stdin: true}, guest.IO{Stdin: names})
}

// bounded is a line that a guest writes.
type bounded []byte

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if len(*b)+len(p) > MaxHead {
		return 0, guest.Errorf(guest.CodeInternal, "its work is told in a line without end")
	}
	*b = append(*b, p...)
	return len(p), nil
}
