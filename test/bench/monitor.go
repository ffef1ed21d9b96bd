package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// monitor is the least of a QMP client (QEMU's docs/interop/qmp-spec).
type monitor struct {
	conn *net.UnixConn
	in   *json.Decoder
}

// dialMonitor waits for a QEMU to make its socket, and to greet.
func dialMonitor(path string) (*monitor, error) {
	conn, err := listening(path)
	if err != nil {
		return nil, fmt.Errorf("no monitor: %w", err)
	}
	q := &monitor{conn.(*net.UnixConn), json.NewDecoder(conn)}
	var greeting map[string]any
	if err := q.in.Decode(&greeting); err != nil {
		return nil, err
	}
	return q, q.do("qmp_capabilities", nil, nil, nil)
}

// listening connects to a socket that is about to be there.
func listening(path string) (net.Conn, error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil || time.Now().After(end) {
			return conn, err
		}
	}
}

// do runs a command, a file's descriptor with it if there is one.
func (q *monitor) do(command string, arguments any, file *os.File, result any) error {
	line, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if arguments == nil {
		line, err = json.Marshal(map[string]any{"execute": command})
	}
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	if _, _, err := q.conn.WriteMsgUnix(line, rights, nil); err != nil {
		return err
	}
	for {
		var reply struct{ Return, Error json.RawMessage }
		switch err := q.in.Decode(&reply); {
		case err != nil:
			return err
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", command, reply.Error)
		case reply.Return == nil: // an event
		case result != nil:
			return json.Unmarshal(reply.Return, result)
		default:
			return nil
		}
	}
}

// migrate moves a machine's state, its memory excepted, to or from a file.
func (q *monitor) migrate(command string, state *os.File) error {
	skipRAM := map[string]any{"capabilities": []any{map[string]any{"capability": "x-ignore-shared", "state": true}}}
	if err := q.do("migrate-set-capabilities", skipRAM, nil, nil); err != nil {
		return err
	}
	if err := q.do("getfd", map[string]any{"fdname": "state"}, state, nil); err != nil {
		return err
	}
	if err := q.do(command, map[string]any{"uri": "fd:state"}, nil, nil); err != nil {
		return err
	}
	for {
		var info struct{ Status string }
		if err := q.do("query-migrate", nil, nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("%s %s", command, info.Status)
		}
		time.Sleep(time.Millisecond)
	}
}

// restore loads a template's state and lets the guest go on.
func (q *monitor) restore(state *os.File) error {
	if err := q.migrate("migrate-incoming", state); err != nil {
		return err
	}
	return q.do("cont", nil, nil, nil)
}
