package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/unixsock"
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
	conn, err := unixsock.Dial(ctx, filepath.Join(dir, monitorSocket))
	if err != nil {
		return nil, err
	}
	q := &monitor{conn: conn, lines: bufio.NewScanner(conn)}
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
	var err error
	if q.pid, _, err = unixsock.Peer(q.conn); err != nil {
		return err
	}
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
