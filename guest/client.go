package guest

import (
	"context"
	"errors"
	"io"
	"time"
)

// Client asks the agent for things. All methods may be called side by side.
//
// The first dial's error is returned as it is. A stream that breaks after that
// is taken up again on a new one until ctx ends, whatever the operation.
type Client struct {
	Dial Dialer
	// Final reports whether a dial error met while taking up a broken stream
	// means that trying again is pointless (the VM has ended). Nil: never.
	Final func(error) bool
}

// PutOptions say how Put writes.
type PutOptions struct {
	User string // name or uid[:gid] that writes and owns the files; empty: root
}

var errTodo = errors.New("not there yet")

// Configure makes the booted guest the VM of this identity and returns when its
// root is assembled. Repeated with the same identity it returns the same
// answer; another identity is CodeConflict.
func (c *Client) Configure(ctx context.Context, id Identity) (Ready, error) {
	return Ready{}, errTodo
}

// Health asks for a sign of life.
func (c *Client) Health(ctx context.Context) (Health, error) { return Health{}, errTodo }

// Clock sets the guest's wall clock.
func (c *Client) Clock(ctx context.Context, now time.Time) error { return errTodo }

// Shutdown asks the guest's init to end the machine: verb "poweroff" or
// "reboot". It returns when init was asked, not when it has finished.
func (c *Client) Shutdown(ctx context.Context, verb string) error { return errTodo }

// Watch calls notice for everything the guest tells, on one stream, until that
// stream breaks or ctx ends, and returns why; it doesn't dial again. What was
// told in the recent past is told again on every new stream.
func (c *Client) Watch(ctx context.Context, notice func(Notice)) error { return errTodo }

// Exec runs a command and follows it to its end: streams are copied, signals
// and sizes passed on, a broken stream is taken up again without a byte lost or
// doubled. An empty spec.ID is chosen here. A command that could not be started
// is no error but a status with Error set. When ctx ends first the command goes
// on: signal it if it shall not. A Read of io.Stdin that is blocked when Exec
// returns stays blocked, and what it then reads is lost.
//
// When io.Stdout or io.Stderr refuses a write the command sees what it would see
// on a local pipe whose reader died; Exec returns its status and the write's error.
func (c *Client) Exec(ctx context.Context, spec ExecSpec, io IO) (ExitStatus, error) {
	return ExitStatus{}, errTodo
}

// Start starts a command and follows nothing: Attach does, later. A command
// that could not be started is CodeNotStarted.
func (c *Client) Start(ctx context.Context, spec ExecSpec) error { return errTodo }

// Attach follows a session that was started before, from the oldest output
// still kept, until it ends. The session stays known: Forget ends that. A client
// that was attached is told CodeSuperseded. An unknown id is CodeNotFound.
func (c *Client) Attach(ctx context.Context, id string, io IO) (ExitStatus, error) {
	return ExitStatus{}, errTodo
}

// Sessions lists what the agent knows, oldest first, without environments and
// with long argument lists cut.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) { return nil, errTodo }

// Signal sends a signal ("TERM") to a running session's process group, or to the
// foreground group of its terminal. CodeConflict when it has ended.
func (c *Client) Signal(ctx context.Context, id, signal string) error { return errTodo }

// Forget drops an ended session. One that is unknown is forgotten already; one
// that runs is CodeConflict.
func (c *Client) Forget(ctx context.Context, id string) error { return errTodo }

// Put unpacks a tar stream below a directory of the guest, which is created.
// Existing files are replaced. Nothing is written outside of dir.
func (c *Client) Put(ctx context.Context, dir string, tar io.Reader, opt PutOptions) error {
	return errTodo
}

// Get writes a tar stream of a file or directory of the guest to w; names in it
// begin with the path's last element. What comes is the guest's word: unpack it
// as you would anything untrusted.
func (c *Client) Get(ctx context.Context, path string, w io.Writer) error { return errTodo }
