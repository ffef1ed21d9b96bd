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

	"banger"
	"banger/host/unixsock"
	"banger/vmm/machine"
)

// maxReply bounds a line of QMP; the replies we ask for are a few hundred bytes.
const maxReply = 64 << 10

// monitor is one connection to a VMM's QMP socket (QEMU's docs/interop/qmp-spec).
// QEMU serves one client at a time and lets a second one wait, so a connection is used for
// one command only.
type monitor struct {
	conn  *net.UnixConn
	lines *bufio.Scanner
	pid   int // PID of the process that listened on the socket, from the kernel
}

// dialMonitor connects to the machine's monitor, and checks the machine's name. The connection
// ends with ctx. Whether the process that listens is a QEMU isn't checked.
func dialMonitor(ctx context.Context, m banger.Machine) (*monitor, error) {
	conn, err := unixsock.Dial(ctx, filepath.Join(m.Dir, monitorSocket))
	if err != nil {
		return nil, err
	}
	q := &monitor{conn: conn, lines: bufio.NewScanner(conn)}
	q.lines.Buffer(nil, maxReply)
	context.AfterFunc(ctx, func() { _ = q.conn.SetDeadline(time.Unix(1, 0)) })
	if err := q.negotiate(m); err != nil {
		q.Close()
		return nil, fmt.Errorf("monitor of %s: %w", m.Dir, err)
	}
	return q, nil
}

// Close gives the monitor back for the next client.
func (q *monitor) Close() { _ = q.conn.Close() } // nothing of ours is buffered

func (q *monitor) negotiate(m banger.Machine) error {
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
	if err := q.do("qmp_capabilities", nil, nil); err != nil {
		return err
	}
	var answer struct {
		Name string `json:"name"`
	}
	err = q.do("query-name", nil, &answer)
	if err == nil && answer.Name != machine.Name(m.ID) {
		err = fmt.Errorf("it is %.80q's", answer.Name)
	}
	return err
}

// do runs one command with its arguments, if any, and decodes what it returns
// into result, if not nil.
func (q *monitor) do(command string, arguments, result any) error {
	return q.send(nil, command, arguments, result)
}

// send is do with descriptors that are sent with the command (SCM_RIGHTS).
func (q *monitor) send(rights []byte, command string, arguments, result any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	if _, _, err := q.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
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

func (q *monitor) read(v any) error {
	if !q.lines.Scan() {
		if err := q.lines.Err(); err != nil {
			return err
		}
		return fmt.Errorf("QEMU hung up: %w", io.ErrUnexpectedEOF)
	}
	return json.Unmarshal(q.lines.Bytes(), v)
}
