package guest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/guest"
)

// agentThat makes a client whose every stream is served by f.
func agentThat(t *testing.T, f func(conn net.Conn, r *bufio.Reader, req guest.Request)) *guest.Client {
	t.Helper()
	return &guest.Client{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			if req, err := guest.ReadRequest(r); err == nil {
				f(far, r, req)
			}
		}()
		return near, nil
	}}
}

func respond(conn net.Conn, body any) {
	wire, _ := guest.AppendResponse(nil, guest.Version, body, nil)
	_, _ = conn.Write(wire)
}

func frame(typ guest.FrameType, offset int64, data string) []byte {
	return guest.AppendFrame(nil, guest.Frame{Type: typ, Offset: offset, Data: []byte(data)})
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// What an agent sends in few bytes doesn't take many here.
func TestManySessions(t *testing.T) {
	c := agentThat(t, func(conn net.Conn, _ *bufio.Reader, _ guest.Request) {
		respond(conn, make([]struct{}, 80_000)) // "{}" each
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	list, err := c.Sessions(deadline(t, time.Minute))
	runtime.ReadMemStats(&after)
	t.Logf("%d KiB were allocated", (after.TotalAlloc-before.TotalAlloc)>>10)
	if guest.CodeOf(err) != guest.CodeProtocol || list != nil {
		t.Errorf("%d sessions, %v", len(list), err)
	}
}

// TestLyingAgent: an agent that breaks the protocol is found out at once.
func TestLyingAgent(t *testing.T) {
	long := frame(guest.FrameStdout, 0, "")
	long[1] = 0xff
	for name, lie := range map[string]struct {
		at     guest.Attached
		frames []byte
	}{
		"offset jumps":            {frames: frame(guest.FrameStdout, 1, "x")},
		"offset goes back":        {frames: append(frame(guest.FrameStdout, 0, "xx"), frame(guest.FrameStdout, 1, "x")...)},
		"nothing at all":          {frames: frame(guest.FrameStdout, 0, "")},
		"frame too long":          {frames: long},
		"unknown type":            {frames: frame(99, 0, "x")},
		"a client's frame":        {frames: frame(guest.FrameStdin, 0, "x")},
		"stdin never sent":        {frames: frame(guest.FrameStdinAck, 1<<40, "")},
		"exit before the output":  {frames: frame(guest.FrameExit, 0, `{"exit":{"code":0},"stdout":9}`)},
		"exit status 256":         {frames: frame(guest.FrameExit, 0, `{"exit":{"code":256}}`)},
		"exit that can't be read": {frames: frame(guest.FrameExit, 0, `{`)},
		"error without a code":    {frames: frame(guest.FrameError, 0, `{}`)},
		"attached elsewhere":      {at: guest.Attached{Stdout: 5}},
		"negative gap":            {at: guest.Attached{Stdout: -5, StdoutGap: -5}},
		"signals nobody sent":     {at: guest.Attached{Signals: 3}},
		"stdin nobody sent":       {at: guest.Attached{Stdin: 1 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {
				done := make(chan bool)
				go func() {
					defer close(done)
					_, _ = io.Copy(io.Discard, r)
				}()
				respond(conn, lie.at)
				_, _ = conn.Write(lie.frames)
				<-done
			})
			_, err := c.Exec(deadline(t, 20*time.Second), guest.ExecSpec{Argv: []string{"x"}, Stdin: true}, guest.IO{Stdin: blocked(t)})
			if guest.CodeOf(err) != guest.CodeProtocol {
				t.Errorf("was believed: %v", err)
			}
		})
	}
}

// A tool that was killed is said to have been.
func TestToolIsKilled(t *testing.T) {
	c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {
		respond(conn, guest.Attached{})
		_, _ = conn.Write(frame(guest.FrameExit, 0, `{"exit":{"signal":"KILL"}}`))
		_, _ = io.Copy(io.Discard, r)
	})
	if err := c.Get(deadline(t, 20*time.Second), "/etc", io.Discard); err == nil || !strings.Contains(err.Error(), "tar /etc in the guest was ended by SIGKILL") {
		t.Error(err)
	}
}

// TestAgentThatNeverTakesStdin: no more than the window is read ahead.
func TestAgentThatNeverTakesStdin(t *testing.T) {
	c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {
		respond(conn, guest.Attached{TakesStdin: true})
		_, _ = io.Copy(io.Discard, r)
	})
	endless := &endless{}
	_, err := c.Exec(deadline(t, 200*time.Millisecond), guest.ExecSpec{Argv: []string{"x"}, Stdin: true}, guest.IO{Stdin: endless})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if limit := int64(guest.StdinWindow + 2*guest.MaxData); endless.n.Load() > limit {
		t.Errorf("%d bytes were read ahead, over %d", endless.n.Load(), limit)
	}
}

// TestAgentThatAlwaysBreaks: the client tries until its context ends, says what
// it saw, and doesn't spin.
func TestAgentThatAlwaysBreaks(t *testing.T) {
	dials := 0
	c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {})
	dial := c.Dial
	c.Dial = func(ctx context.Context) (net.Conn, error) { dials++; return dial(ctx) }
	_, err := c.Exec(deadline(t, 300*time.Millisecond), guest.ExecSpec{Argv: []string{"x"}}, guest.IO{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
	if dials < 2 || dials > 20 {
		t.Errorf("%d dials", dials)
	}
	gone := errors.New("the VM has ended")
	c.Final = func(err error) bool { return err == gone }
	first := true
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		if !first {
			return nil, gone
		}
		first = false
		return dial(ctx)
	}
	if _, err := c.Health(deadline(t, 20*time.Second)); err != gone {
		t.Error(err)
	}
}

func TestTextsOfTheGuestAreClean(t *testing.T) {
	nasty := "\x1b]0;owned\a\u202e" + strings.Repeat("x", 1<<16)
	c := agentThat(t, func(conn net.Conn, _ *bufio.Reader, _ guest.Request) {
		wire, _ := guest.AppendResponse(nil, guest.Version, nil, &guest.Error{Code: guest.CodeInternal, Message: nasty})
		_, _ = conn.Write(wire)
	})
	_, err := c.Health(deadline(t, 20*time.Second))
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\a\u202e") || len(err.Error()) > 2048 {
		t.Errorf("%.80q, %d bytes", err, len(err.Error()))
	}
}

func TestAttachedGapsAreTold(t *testing.T) {
	c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {
		respond(conn, guest.Attached{Stdout: 10, StdoutGap: 4, Exit: &guest.ExitStatus{}})
		_, _ = conn.Write(append(frame(guest.FrameStdout, 10, "ab"), frame(guest.FrameExit, 0, `{"stdout":12}`)...))
		_, _ = io.Copy(io.Discard, r)
	})
	var out bytes.Buffer
	var gaps []int64
	_, err := c.Attach(deadline(t, 20*time.Second), guest.NewID(), guest.IO{Stdout: &out,
		Gap: func(stream string, n int64) {
			if stream == "stdout" {
				gaps = append(gaps, n)
			}
		}})
	if err != nil || out.String() != "ab" || len(gaps) != 1 || gaps[0] != 4 {
		t.Errorf("%v, %q, %v", err, &out, gaps)
	}
}

type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) { e.n.Add(int64(len(p))); return len(p), nil }

func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

// Output that was dropped while a stream was down is an error, unless it is taken
// for what it is: a copy that misses the middle must not look whole.
func TestGapsAreErrors(t *testing.T) {
	var streams atomic.Int32
	c := agentThat(t, func(conn net.Conn, r *bufio.Reader, _ guest.Request) {
		if streams.Add(1)%2 == 1 {
			respond(conn, guest.Attached{})
			_, _ = conn.Write(frame(guest.FrameStdout, 0, "begin"))
			return // and break
		}
		respond(conn, guest.Attached{Stdout: 10, StdoutGap: 5})
		_, _ = conn.Write(append(frame(guest.FrameStdout, 10, "end"), frame(guest.FrameExit, 0, `{"stdout":13}`)...))
		_, _ = io.Copy(io.Discard, r)
	})
	var out bytes.Buffer
	if err := c.Get(deadline(t, 20*time.Second), "/etc", &out); guest.CodeOf(err) != guest.CodeLost || !strings.Contains(err.Error(), "5 bytes of stdout") {
		t.Errorf("a copy without its middle: %q, %v", &out, err)
	}
	if _, err := c.Exec(deadline(t, 20*time.Second), guest.ExecSpec{Argv: []string{"x"}}, guest.IO{Stdout: &out}); guest.CodeOf(err) != guest.CodeLost {
		t.Errorf("output without its middle: %v", err)
	}
	out.Reset()
	gap := int64(0)
	st, err := c.Exec(deadline(t, 20*time.Second), guest.ExecSpec{Argv: []string{"x"}}, guest.IO{Stdout: &out, Gap: func(_ string, n int64) { gap += n }})
	if err != nil || st.Code != 0 || gap != 5 || out.String() != "beginend" {
		t.Errorf("a gap that is taken: %+v, %v, %d, %q", st, err, gap, &out)
	}
	if _, err := c.Exec(deadline(t, 20*time.Second), guest.ExecSpec{Argv: []string{"x"}}, guest.IO{}); err != nil {
		t.Errorf("a gap in what nobody wants: %v", err)
	}
}
