package qemu

import (
	"bufio"
	"io"
	"net"
	"testing"

	"banger"
	"banger/host/unixsock"
)

// Whatever a VMM answers, a question ends with a reply or an error, and no line
// takes more than its bound.
func FuzzMonitor(f *testing.F) {
	const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"
	f.Add([]byte(greeting + `{"return": {}}` + "\r\n" + `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}` + "\r\n" + `{"return": {"name": "banger-x"}}` + "\r\n"))
	f.Add([]byte(greeting + `{"error": {"class": "GenericError", "desc": "no"}}` + "\n"))
	f.Add([]byte(greeting + `{"return": {}}` + "\n" + `{"return": [1]}` + "\n"))
	f.Add([]byte("{\"QMP\": null}\n\n\n"))
	f.Fuzz(func(t *testing.T, answers []byte) {
		near, far := pair(t)
		go func() {
			_, _ = far.Write(answers)
			_ = far.CloseWrite()
			_, _ = io.Copy(io.Discard, far)
		}()
		q := &monitor{conn: near, lines: bufio.NewScanner(near)}
		q.lines.Buffer(nil, maxReply)
		defer q.Close()
		var answer struct {
			Name string `json:"name"`
		}
		err := q.negotiate(banger.Machine{ID: "x"})
		if err == nil {
			err = q.do("query-name", nil, &answer)
		}
		if err == nil && len(answer.Name) > maxReply {
			t.Errorf("a name of %d bytes", len(answer.Name))
		} else if err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

func pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	near, file, err := unixsock.Pair()
	if err == nil {
		far, err = unixsock.Take(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}
