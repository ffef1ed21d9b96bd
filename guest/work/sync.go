package work

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"io"

	"banger/guest"
)

// Plan is what the tool "sync" reads as its first line, as JSON. It first writes a Head and,
// with Git, two lists: of its index as git ls-files -s -t -z gives it, and of the files that
// differ from the index, each as git ls-files -s has it, or as "000000" if it is gone. Each
// list ends with a zero byte. Without a plan it changes nothing.
//
// After the line come so many bytes of a pack, of lines for git update-index --index-info and
// of names of files to remove, each with a zero byte after it, and of a tar of new files.
type Plan struct {
	Head    string   `json:"head"`              // the newest commit from now on
	Branch  string   `json:"branch"`            // full name of its branch; "": detached
	Shallow []string `json:"shallow,omitempty"` // commits whose parents don't come along
	Pack    int64    `json:"pack,omitempty"`
	Index   int64    `json:"index,omitempty"`
	Remove  int64    `json:"remove,omitempty"`
	Replace []byte   `json:"replace,omitempty"` // names of files in the tar, with zero bytes
	Tar     int64    `json:"tar"`
}

// Synced is the line that "sync" writes at its end.
type Synced struct {
	Done bool `json:"done"`
	// Changed are files that were to be replaced or removed and changed, or came, after they
	// were told, and "HEAD" if it moved: nothing was done then.
	Changed []string `json:"changed,omitempty"`
}

// Sync runs the tool for a directory of the guest. answer reads what it writes and writes what
// it reads. Older agents refuse it.
func Sync(ctx context.Context, c *guest.Client, dir string, answer func(in *bufio.Reader, out io.WriteCloser) error) error {
	in, told := io.Pipe()
	read, out := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		err := answer(bufio.NewReaderSize(in, MaxHead), out)
		_ = out.Close() // so the tool ends
		_, _ = io.Copy(io.Discard, in)
		answered <- err
	}()
	err := c.Tool(ctx, guest.ExecSpec{Tool: "sync", Argv: []string{"sync", dir}, Dir: "/", Stdin: true}, guest.IO{Stdin: read, Stdout: told})
	_ = told.CloseWithError(io.ErrUnexpectedEOF)
	_ = read.CloseWithError(io.ErrClosedPipe)
	return cmp.Or(<-answered, err)
}

// ReadLine reads one line of JSON that a guest writes.
func ReadLine(in *bufio.Reader, into any) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, into); err != nil {
		return guest.Errorf(guest.CodeInternal, "it writes no line of JSON: %v", err)
	}
	return nil
}

// Settle lets git look at the files of a new copy once, so that nobody waits for that later.
func Settle(ctx context.Context, c *guest.Client, dir string) error {
	return c.Tool(ctx, guest.ExecSpec{Tool: "settle", Argv: []string{"settle", dir}, Dir: "/"}, guest.IO{})
}
