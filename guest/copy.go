package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
)

// PutOptions say how Put and Copy write.
type PutOptions struct {
	User string // name or uid[:gid] that writes and owns the files; empty: root
}

// Put unpacks a tar stream below a directory of the guest, which is created.
// Existing files are replaced. Nothing is written outside of dir.
func (c *Client) Put(ctx context.Context, dir string, tar io.Reader, opt PutOptions) error {
	return c.unpack(ctx, ExecSpec{Tool: "untar", Argv: []string{"untar", dir}, User: opt.User}, dir, tar)
}

// Copy unpacks a tar stream of a tree of this name to where cp would put it: below dest if
// that is a directory, else as dest. With the name ".", the content of the tree goes below
// dest, which is created. Older agents refuse Copy.
func (c *Client) Copy(ctx context.Context, name, dest string, tar io.Reader, opt PutOptions) error {
	return c.unpack(ctx, ExecSpec{Tool: "cp", Argv: []string{"cp", name, dest}, User: opt.User}, dest, tar)
}

func (c *Client) unpack(ctx context.Context, spec ExecSpec, dest string, tar io.Reader) error {
	src := &source{r: tar}
	spec.Dir, spec.Stdin = "/", true
	err := c.Tool(ctx, spec, IO{Stdin: src})
	if failed := src.err.Load(); failed != nil {
		return fmt.Errorf("read what goes to %s: %w", dest, *failed)
	}
	return err
}

// Get writes a tar stream of a file or directory of the guest to w. Names in it begin with
// the path's last element, or with "." if the path ends in "/.". The stream isn't trusted.
func (c *Client) Get(ctx context.Context, path string, w io.Writer) error {
	return c.Tool(ctx, ExecSpec{Tool: "tar", Argv: []string{"tar", path}, Dir: "/"}, IO{Stdout: w})
}

// ToolNotFound is the exit status of an agent's tool that misses a file or a directory.
const ToolNotFound = 2

// Tool runs a tool of the agent; its error is what the tool prints on stderr.
func (c *Client) Tool(ctx context.Context, spec ExecSpec, near IO) error {
	var said head
	near.Stderr = &said
	st, err := c.Exec(ctx, spec, near)
	switch {
	case err != nil:
		return err
	case st.Error != "":
		return Errorf(CodeNotStarted, "%s", st.Error)
	case st.Signal != "":
		return Errorf(CodeInternal, "%s %s in the guest was ended by SIG%s", spec.Tool, spec.Argv[1], st.Signal)
	case st.Code == ToolNotFound:
		return Errorf(CodeNotFound, "%s", Clean(strings.TrimSpace(string(said))))
	case st.Code != 0:
		return Errorf(CodeInvalid, "%s", Clean(strings.TrimSpace(string(said))))
	}
	return nil
}

// head keeps the beginning of what is written to it.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxText-len(*h))]...)
	return len(p), nil
}

// source records why reading failed: for the command its input just ends, but the caller
// must know.
type source struct {
	r   io.Reader
	err atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err.Store(&err)
	}
	return n, err
}
