package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/api/inguest"
	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

// guestOf is a daemon's inside whose one VM has a real agent, that outlives the daemon.
func guestOf(t *testing.T, a *agent.Server) *services {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = a.Serve(l) }()
	return &services{
		vm: func(context.Context, string) (banger.VM, error) { return aVM, nil },
		dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
}

// outputLine is one of a command's output, as any client reads it.
type outputLine struct {
	Output *inguest.CommandOutput
	Result *guest.Command
	Error  *banger.Error
}

// A command runs on while daemons come and go. Who follows it goes on at the next one,
// from where it was, and misses nothing.
func TestCommandOutlivesDaemons(t *testing.T) {
	s := guestOf(t, &agent.Server{Sessions: &session.Table{}})
	path := socket(t)
	end := serve(t, path, s)
	gate := filepath.Join(t.TempDir(), "gate")
	script := fmt.Sprintf(`i=0; while test $i -lt 3000; do echo line $i; i=$((i+1)); test $((i%%500)) -gt 0 || until rm %s 2>/dev/null; do sleep 0.01; done; done; exit 7`, gate)
	body, err := json.Marshal(inguest.StartCommandRequest{Argv: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	resp, text := asked(t, path, "POST", "/v2/vms/web/commands", string(body))
	var cmd guest.Command
	if err := json.Unmarshal([]byte(text), &cmd); err != nil || resp.StatusCode != 200 || !cmd.Running || cmd.VM != aVM.ID {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	var got strings.Builder
	daemons := 1
	for cmd.Running {
		req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://banger/v2/vms/web/commands/%s/output?follow=true&stdout=%d", cmd.ID, got.Len()), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := plainHTTP(path).Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v, %v", resp, err)
		}
		lines := bufio.NewScanner(resp.Body)
		for since := got.Len(); lines.Scan(); {
			var l outputLine
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			switch {
			case l.Output != nil:
				if l.Output.Offset != int64(got.Len()) || l.Output.Lost != 0 {
					t.Fatalf("after %d bytes: %.100s", got.Len(), lines.Text())
				}
				got.Write(l.Output.Data)
			case l.Result != nil:
				cmd = *l.Result
			default:
				t.Fatalf("it ends with %s", lines.Text())
			}
			if got.Len()-since > 4000 && strings.Count(got.String(), "\n")%500 == 0 && cmd.Running { // it waits for its gate
				end()
				end = serve(t, path, s)
				daemons++
				open, err := net.Listen("unix", gate) // any file will do
				if err != nil {
					t.Fatal(err)
				}
				open.(*net.UnixListener).SetUnlinkOnClose(false)
				_ = open.Close()
				break
			}
		}
		_ = resp.Body.Close()
	}
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintln(&want, "line", i)
	}
	if got.String() != want.String() || *cmd.Exit != 7 || daemons < 4 {
		t.Errorf("%d of %d bytes, %+v, by %d daemons", got.Len(), want.Len(), cmd, daemons)
	}
}

// An answer that was cut has no last line; an agent that doesn't know outputs, and one that
// breaks the protocol, are said to be it.
func TestCommandOutputErrors(t *testing.T) {
	a := &agent.Server{Sessions: &session.Table{}}
	s := guestOf(t, a)
	dial := s.dial
	path := socket(t)
	end := serve(t, path, s)
	_, text := asked(t, path, "POST", "/v2/vms/web/commands", `{"argv":["sh","-c","echo out; exec sleep 600"]}`)
	var cmd guest.Command
	if err := json.Unmarshal([]byte(text), &cmd); err != nil {
		t.Fatal(text)
	}
	t.Cleanup(func() { _ = a.Sessions.Signal(cmd.ID, "KILL") })
	url := "/v2/vms/web/commands/" + cmd.ID + "/output"
	resp, err := plainHTTP(path).Get("http://banger" + url + "?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	end()
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the daemon ended, and the answer looks whole: %s", rest)
	}
	_ = resp.Body.Close()

	serve(t, path, s)
	s.dial = func(ctx context.Context, ref string) (net.Conn, error) {
		conn, err := dial(ctx, ref)
		return &former{Conn: conn}, err
	}
	if resp, text := asked(t, path, "GET", url, ""); resp.StatusCode != 503 || !strings.Contains(text, "started by an older banger") {
		t.Errorf("%s: %s", resp.Status, text)
	}
}

// former is a stream to an agent of before there was an operation for output.
type former struct{ net.Conn }

func (f *former) Write(p []byte) (int, error) {
	_, err := f.Conn.Write([]byte(strings.Replace(string(p), `"op":"`+guest.OpOutput+`"`, `"op":"OUTPUT"`, 1)))
	return len(p), err
}
