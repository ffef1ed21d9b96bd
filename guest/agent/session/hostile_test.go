package session

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// client is one of a table, over pipes.
func client(t *testing.T, table *Table) *guest.Client {
	t.Helper()
	return &guest.Client{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			req, err := guest.ReadRequest(r)
			if err != nil {
				return
			}
			var exec guest.ExecRequest
			if err := json.Unmarshal(req.Body, &exec); err != nil {
				t.Error(err)
				return
			}
			_ = table.Exec(far, r, guest.Version, exec)
		}()
		return near, nil
	}}
}

// hung is a table in which looking up the command "hung" takes until the function
// it returns is called, as if its file were on a network that is gone.
func hung(t *testing.T) (table *Table, answer func()) {
	t.Helper()
	gate := make(chan struct{})
	table = &Table{resolve: func(spec *guest.ExecSpec) (*program, error) {
		if spec.Env != nil {
			<-gate
		}
		return resolve(spec)
	}}
	open := false
	answer = func() {
		if !open {
			open = true
			close(gate)
		}
	}
	t.Cleanup(answer)
	return table, answer
}

// A command whose file can't be looked up holds up nobody: others start, the list and
// the count answer, and it can be signalled.
func TestHungLookupHoldsUpNobody(t *testing.T) {
	table, answer := hung(t)
	c := client(t, table)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	id := guest.NewID()
	signals := make(chan string, 1)
	type result struct {
		st  guest.ExitStatus
		err error
	}
	ended := make(chan result, 1)
	go func() {
		st, err := c.Exec(ctx, guest.ExecSpec{ID: id, Argv: []string{"sleep", "60"}, Env: []string{"HUNG=1"}}, guest.IO{Signals: signals})
		ended <- result{st, err}
	}()
	for table.Len() == 0 {
		if ctx.Err() != nil {
			t.Fatal("it isn't there")
		}
		time.Sleep(time.Millisecond)
	}
	if st, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); err != nil || st.Code != 0 {
		t.Fatalf("another command: %+v, %v", st, err)
	}
	if l := table.List(); len(l) == 0 || l[0].Spec.ID != id || l[0].PID != 0 || l[0].Exit != nil {
		t.Errorf("the list says %+v", l)
	}
	if err := table.Signal(id, "TERM"); err != nil {
		t.Errorf("a signal for later: %v", err)
	}
	if err := table.Forget(id); guest.CodeOf(err) != guest.CodeConflict {
		t.Errorf("it was forgotten: %v", err)
	}
	table.Clear()
	answer()
	if r := <-ended; r.err != nil || r.st.Signal != "TERM" {
		t.Errorf("it ended as %+v, %v", r.st, r.err)
	}
}

// What a client says before the command runs reaches it all the same.
func TestStartingTakesWhatComes(t *testing.T) {
	table, answer := hung(t)
	c := client(t, table)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sizes := make(chan guest.WinSize, 1)
	sizes <- guest.WinSize{Rows: 11, Cols: 77}
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", "cat; stty size"}, TTY: &guest.WinSize{Rows: 1, Cols: 1}, Stdin: true, Env: []string{"HUNG=1"}},
			guest.IO{Stdin: strings.NewReader("hello\n"), Stdout: &out, Resize: sizes})
		done <- err
	}()
	eventually(ctx, t, func() bool {
		for _, s := range table.all() {
			s.mu.Lock()
			ready := s.early.size != nil && s.in.eof
			s.mu.Unlock()
			if ready {
				return true
			}
		}
		return false
	})
	answer()
	if err := <-done; err != nil || !strings.Contains(out.String(), "hello") || !strings.Contains(out.String(), "11 77") {
		t.Errorf("%q, %v", &out, err)
	}
	// A start that nobody follows says whether it could be done.
	if err := c.Start(ctx, guest.ExecSpec{Argv: []string{"no-such-command"}}); guest.CodeOf(err) != guest.CodeNotStarted {
		t.Error(err)
	}
	refused := errors.New("disk full")
	if _, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"yes"}}, guest.IO{Stdout: refusing{refused}}); !errors.Is(err, refused) {
		t.Error(err)
	}
}

type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }

func eventually(ctx context.Context, t *testing.T, cond func() bool) {
	t.Helper()
	for !cond() {
		if ctx.Err() != nil {
			t.Fatal("it never happened")
		}
		time.Sleep(time.Millisecond)
	}
}

// A line without its end is input like any other: its end is one too.
func TestEndOfFileInALine(t *testing.T) {
	c := client(t, &Table{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, in := range []string{"abc", "abc\n", "", "abc\r", "a\x04", "a\nb"} {
		var out bytes.Buffer
		st, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", "stty -echo; echo ready; cat; echo end"}, TTY: &guest.WinSize{Rows: 2, Cols: 80}, Stdin: true},
			guest.IO{Stdin: strings.NewReader(in), Stdout: &out})
		if err != nil || st.Code != 0 || !strings.HasSuffix(out.String(), "end\r\n") {
			t.Errorf("%q: %q, %+v, %v", in, &out, st, err)
		}
	}
	tio := &unix.Termios{Lflag: unix.ICANON, Iflag: unix.ICRNL}
	tio.Cc[unix.VEOF], tio.Cc[unix.VEOL] = 4, ';'
	for last, want := range map[byte]int{'\n': 1, '\r': 1, 4: 1, ';': 1, 'x': 2} {
		if got := endOfFile(tio, true, last); len(got) != want || got[0] != 4 {
			t.Errorf("after %q: %v", last, got)
		}
	}
	if got := endOfFile(tio, false, 0); len(got) != 1 {
		t.Errorf("of nothing: %v", got)
	}
	if got := endOfFile(&unix.Termios{}, true, 'x'); got != nil {
		t.Errorf("without lines: %v", got)
	}
}

// A spool that is full holds what a client waits for before it confirms, however
// small the pieces are; else both would wait.
func TestFullSpoolHoldsEnough(t *testing.T) {
	for _, size := range []int{1, 100, 5000, 20_000} {
		s := spool{limit: minSpool}
		for i := 0; !s.full(); i++ {
			s.append(i%2, make([]byte, size))
		}
		if held := s.end[stdout] + s.end[stderr]; held < 64<<10 {
			t.Errorf("in pieces of %d it is full with %d bytes", size, held)
		}
		if held := s.end[stdout] + s.end[stderr]; held > 2*minSpool {
			t.Errorf("in pieces of %d it is full with %d bytes only", size, held)
		}
		s.ack(s.end)
		if s.size != 0 || s.bytes != 0 || s.full() {
			t.Errorf("an empty spool is charged %d for %d bytes", s.size, s.bytes)
		}
	}
}
