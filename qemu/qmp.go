package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxReply bounds a line of QMP; the replies we ask for are a few hundred bytes.
const maxReply = 64 << 10

// monitor is one connection to a VMM's QMP socket (QEMU's docs/interop/qmp-spec).
// QEMU serves one client at a time and lets a second one hang, so a connection
// is kept for one question only.
type monitor struct {
	conn  *net.UnixConn
	lines *bufio.Scanner
	pid   int // who listened on the socket, by the kernel's word
}

// dialMonitor connects and negotiates. The connection ends with ctx. What
// listens is only believed to be a QEMU; see isVMM.
func dialMonitor(ctx context.Context, dir string) (*monitor, error) {
	// A socket's path may have 107 bytes; through the directory's descriptor the
	// path is short wherever the state directory lies.
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	short := filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), monitorSocket)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, monitorSocket), errors.Unwrap(err))
	}
	q := &monitor{conn: conn.(*net.UnixConn), lines: bufio.NewScanner(conn)}
	q.lines.Buffer(nil, maxReply)
	context.AfterFunc(ctx, func() { _ = q.conn.SetDeadline(time.Unix(1, 0)) })
	if err := q.negotiate(); err != nil {
		q.Close()
		return nil, fmt.Errorf("monitor of %s: %w", dir, err)
	}
	return q, nil
}

// Close gives the monitor back for the next client.
func (q *monitor) Close() { _ = q.conn.Close() } // nothing of ours is buffered

func (q *monitor) negotiate() error {
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return fmt.Errorf("credentials of the peer: %w", errors.Join(cerr, err))
	}
	q.pid = int(cred.Pid)
	var greeting struct {
		QMP *json.RawMessage `json:"QMP"`
	}
	if err := q.read(&greeting); err != nil {
		return err
	}
	if greeting.QMP == nil {
		return errors.New("no QMP greeting")
	}
	return q.do("qmp_capabilities", nil, nil)
}

// do runs one command with its arguments, if any, and decodes what it returns
// into result, if not nil.
func (q *monitor) do(command string, arguments, result any) error {
	return q.send(nil, command, arguments, result)
}

// send is do with descriptors that go with the command, as SCM_RIGHTS.
func (q *monitor) send(files []int, command string, arguments, result any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	if _, _, err := q.conn.WriteMsgUnix(append(line, '\n'), rights(files), nil); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := q.read(&reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("%s: QEMU says: %.200s", command, reply.Error.Desc)
		case reply.Return == nil: // an event
		case result != nil:
			return json.Unmarshal(reply.Return, result)
		default:
			return nil
		}
	}
}

func rights(files []int) []byte {
	if len(files) == 0 {
		return nil
	}
	return unix.UnixRights(files...)
}

func (q *monitor) read(v any) error {
	if !q.lines.Scan() {
		if err := q.lines.Err(); err != nil {
			return err
		}
		return fmt.Errorf("QEMU hung up: %w", io.ErrUnexpectedEOF)
	}
	return json.Unmarshal(q.lines.Bytes(), v)
}
