package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"banger"
	"banger/host/proc"
	"banger/host/unixsock"
)

// Listener returns the process id of the first process of the jail of the VM in dir: it is the one
// that listens on the jail's socket. Whether that is the process that one knows is for
// the caller to see.
func Listener(ctx context.Context, dir string) (pid int, err error) {
	conn, err := unixsock.DialItself(ctx, filepath.Join(dir, SocketFile))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	pid, _, err = unixsock.Peer(conn)
	return pid, err
}

// Take returns the host's end of a pair of the jail of the VM in dir, whose first process must be
// first. Every caller gets the same end: only one may use it.
func Take(ctx context.Context, dir string, first banger.Process, name string) (*os.File, error) {
	f, err := take(ctx, dir, first, name)
	if err != nil {
		return nil, fmt.Errorf("take %s from the jail: %w", name, err)
	}
	return f, nil
}

func take(ctx context.Context, dir string, first banger.Process, name string) (*os.File, error) {
	conn, err := unixsock.DialItself(ctx, filepath.Join(dir, SocketFile))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if pid, _, err := unixsock.Peer(conn); err != nil || pid != first.PID || !proc.Alive(first) {
		return nil, errors.Join(fmt.Errorf("process %d listens in place of %d", pid, first.PID), err)
	}
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(askWait)
	}
	if err := conn.SetDeadline(end); err != nil {
		return nil, err
	}
	line, err := json.Marshal(question{Op: "take", Name: name})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	buf := make([]byte, 4<<10)
	n, f, err := unixsock.Receive(conn, buf)
	if err != nil {
		return nil, err
	}
	var a answer
	said, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	switch err := json.Unmarshal(said, &a); {
	case err != nil:
		err = fmt.Errorf("answer %.100q: %w", said, err)
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	case f == nil:
		return nil, errors.New(a.Error)
	}
	return f, nil
}

// Jailer is this package as a shim sees it.
type Jailer struct{}

// Command is the function of that name for a Spec as JSON, and the VM in dir.
func (Jailer) Command(program, dir string, spec json.RawMessage) (*exec.Cmd, func() error, error) {
	var s Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, nil, fmt.Errorf("jail: %w", err)
	}
	s.Dir = dir
	return Command(program, s)
}

// Take is the function of that name.
func (Jailer) Take(ctx context.Context, dir string, first banger.Process, pair string) (*os.File, error) {
	return Take(ctx, dir, first, pair)
}

// Ended returns End.WaitStatus of the VMM in dir.
func (Jailer) Ended(dir string) (status syscall.WaitStatus, seen bool) {
	end, seen, err := Ended(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "how the VMM in its jail ended:", err)
	}
	return end.WaitStatus(), seen
}

// outside returns an error for a connection from within the jail. A process that isn't in our
// process namespace has no id there.
func outside(conn *net.UnixConn) error {
	if pid, _, err := unixsock.Peer(conn); err != nil || pid != 0 {
		return errors.Join(fmt.Errorf("process %d of the jail asks for what is the host's", pid), err)
	}
	return nil
}
