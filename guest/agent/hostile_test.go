package agent_test

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"banger/guest"
	"banger/guest/agent"
)

// TestHostileClient: what breaks the protocol is answered with an error, and
// the agent serves on.
func TestHostileClient(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	frame := func(typ guest.FrameType, off int64, data string) []byte {
		return guest.AppendFrame(nil, guest.Frame{Type: typ, Offset: off, Data: []byte(data)})
	}
	window := []byte{}
	for off := int64(0); off <= guest.StdinWindow+1<<20; off += guest.MaxData {
		window = append(window, frame(guest.FrameStdin, off, string(make([]byte, guest.MaxData)))...)
	}
	for name, frames := range map[string][]byte{
		"stdin jumps":              frame(guest.FrameStdin, 5, "x"),
		"stdin after its end":      append(frame(guest.FrameStdinEOF, 0, ""), frame(guest.FrameStdin, 0, "x")...),
		"end elsewhere":            frame(guest.FrameStdinEOF, 5, ""),
		"over the window":          window,
		"confirms what never came": frame(guest.FrameAck, 1<<40, "\x00\x00\x00\x00\x00\x00\x00\x00"),
		"short ack":                frame(guest.FrameAck, 0, "x"),
		"short size":               frame(guest.FrameResize, 0, "x"),
		"no such signal":           frame(guest.FrameSignal, 0, "NOPE"),
		"signal from the future":   frame(guest.FrameSignal, 9, "TERM"),
		"closes stdin":             frame(guest.FrameClose, 0, ""),
		"unknown type":             frame(77, 0, ""),
		"the agent's own":          frame(guest.FrameStdout, 0, "x"),
		"too long":                 {1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := c.Dial(ctx)
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			id := guest.NewID()
			wire, err := guest.AppendRequest(nil, guest.OpExec, guest.ExecRequest{Follow: true,
				Spec: guest.ExecSpec{ID: id, Argv: []string{"sleep", "60"}, Stdin: true}})
			must(t, err)
			_, err = conn.Write(wire)
			must(t, err)
			go conn.Write(frames) // may be refused half-way
			r := bufio.NewReader(conn)
			must(t, guest.ReadResponse(r, nil))
			fr := guest.NewFrameReader(r)
			for {
				f, err := fr.Next()
				must(t, err)
				if f.Type == guest.FrameError {
					break
				}
			}
			must(t, c.Signal(ctx, id, "KILL"))
		})
	}
	for name, spec := range map[string]guest.ExecSpec{
		"short id":   {ID: "abc"},
		"bad id":     {ID: "../../../../../../../../../../.."},
		"no tool":    {Tool: "rm"},
		"bad env":    {Env: []string{"=x"}},
		"nul in arg": {Argv: []string{"a\x00b"}},
	} {
		if _, err := c.Exec(ctx, spec, guest.IO{}); guest.CodeOf(err) != guest.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, body := range map[string]any{"nosuch": nil, guest.OpSignal: 5, guest.OpForget: "x", guest.OpConfigure: 5} {
		conn, err := c.Dial(ctx)
		must(t, err)
		defer conn.Close()
		wire, err := guest.AppendRequest(nil, want, body)
		must(t, err)
		_, err = conn.Write(wire)
		must(t, err)
		err = guest.ReadResponse(bufio.NewReader(conn), nil)
		if text := map[bool]string{true: "knows no operation", false: "the request can't be read"}[want == "nosuch"]; guest.CodeOf(err) != guest.CodeInvalid || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := c.Health(ctx); err != nil {
		t.Error(err)
	}
}

// TestNoise: random bytes, and requests followed by random bytes, do no harm.
func TestNoise(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	noise := rand.NewChaCha8([32]byte{7})
	for i := range 200 {
		conn, err := c.Dial(ctx)
		must(t, err)
		var wire []byte
		if i%2 == 0 {
			wire, err = guest.AppendRequest(nil, guest.OpExec, guest.ExecRequest{Follow: true,
				Spec: guest.ExecSpec{ID: guest.NewID(), Argv: []string{"true"}, Stdin: true}})
			must(t, err)
		}
		junk := make([]byte, rand.IntN(200))
		_, _ = noise.Read(junk)
		_, _ = conn.Write(append(wire, junk...))
		must(t, conn.(*net.UnixConn).CloseWrite())
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			t.Fatalf("%d: the agent never let go of %x", i, junk)
		}
		conn.Close()
	}
	if h, err := c.Health(ctx); err != nil {
		t.Errorf("%+v, %v", h, err)
	}
	eventually(t, "every command ends", func() bool { h, err := c.Health(ctx); return err == nil && h.Sessions == 0 })
}
