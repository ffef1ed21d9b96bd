package guest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"banger/guest"
)

// Whatever an agent answers, and whatever frames follow, a client ends with a status or
// an error, and gives its user no byte that the agent didn't send.
func FuzzAnswers(f *testing.F) {
	answer, _ := guest.AppendResponse(nil, guest.Version, guest.Attached{PID: 1, TakesStdin: true}, nil)
	f.Add(answer, append(frame(guest.FrameStdout, 0, "out"), frame(guest.FrameExit, 0, `{"exit":{"code":3},"stdout":3}`)...))
	f.Add(answer, append(frame(guest.FrameStdinAck, 2, ""), frame(guest.FrameStderr, 0, "err")...))
	f.Add(answer, frame(guest.FrameError, 0, `{"code":"not_found","message":"gone"}`))
	gone, _ := guest.AppendResponse(nil, guest.Version, nil, guest.Errorf(guest.CodeNotFound, "gone"))
	f.Add(gone, []byte{})
	f.Fuzz(func(t *testing.T, answer, frames []byte) {
		c := agentThat(t, func(conn net.Conn, r *bufio.Reader, req guest.Request) {
			if req.Op != guest.OpExec {
				respond(conn, guest.Health{Agent: "a"})
				return
			}
			go func() { _, _ = r.WriteTo(discard{}) }()
			_, _ = conn.Write(append(bytes.Clone(answer), frames...))
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var out bytes.Buffer
		st, err := c.Exec(ctx, guest.ExecSpec{ID: "s", Argv: []string{"x"}, Stdin: true}, guest.IO{Stdin: bytes.NewReader([]byte("in")), Stdout: &out, Stderr: &out, Reconnect: func(error) { cancel() }})
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("it hangs")
		}
		if err == nil && (st.Code < 0 || st.Code > 255) {
			t.Errorf("a status of %d", st.Code)
		}
		if out.Len() > len(answer)+len(frames) {
			t.Errorf("%d bytes became %d", len(answer)+len(frames), out.Len())
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
