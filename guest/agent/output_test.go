package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"banger/guest"
	"banger/guest/agent"
)

// said gathers what a command wrote, and what was lost of it.
type said struct {
	text [2]string
	lost [2]int64
}

func (s *said) add(o guest.Output) error {
	i := map[string]int{"stdout": 0, "stderr": 1}[o.Stream]
	s.text[i] += string(o.Data)
	s.lost[i] += o.Lost
	return nil
}

// What a command wrote can be read from anywhere, as often as anybody likes, while it
// runs and after it.
func TestOutput(t *testing.T) {
	c, ctx := openAgent(t, &agent.Server{}), deadline(t)
	gate := t.TempDir() + "/gate"
	id := guest.NewID()
	if err := c.Start(ctx, guest.ExecSpec{ID: id, Argv: sh("echo out; echo err >&2; until test -e " + gate + "; do sleep 0.01; done; echo late")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has written", func() bool { l, _ := c.Sessions(ctx); return l[0].Stdout == 4 && l[0].Stderr == 4 })
	for range 2 {
		var s said
		if err := c.Output(ctx, id, [2]int64{}, false, s.add); err != nil || s != (said{text: [2]string{"out\n", "err\n"}}) {
			t.Errorf("so far it is %+v, %v", s, err)
		}
	}
	var followers sync.WaitGroup
	for range 3 {
		followers.Go(func() {
			var s said
			if err := c.Output(ctx, id, [2]int64{1, 2}, true, s.add); err != nil || s != (said{text: [2]string{"ut\nlate\n", "r\n"}}) {
				t.Errorf("followed it is %+v, %v", s, err)
			}
		})
	}
	leaving, leave := context.WithCancel(ctx)
	if err := c.Output(leaving, id, [2]int64{}, true, func(guest.Output) error { leave(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("one that leaves gets %v", err)
	}
	full := errors.New("full")
	if err := c.Output(ctx, id, [2]int64{}, true, func(guest.Output) error { return full }); err != full {
		t.Errorf("one that has no room gets %v", err)
	}
	write(t, gate, "", 0o600)
	followers.Wait()
	var s said
	if err := c.Output(ctx, id, [2]int64{4, 0}, true, s.add); err != nil || s != (said{text: [2]string{"late\n", "err\n"}}) {
		t.Errorf("at last it is %+v, %v", s, err)
	}
	if err := c.Output(ctx, id, [2]int64{100, 0}, false, s.add); guest.CodeOf(err) != guest.CodeInvalid {
		t.Errorf("more than there was: %v", err)
	}
	if err := c.Output(ctx, guest.NewID(), [2]int64{}, true, s.add); guest.CodeOf(err) != guest.CodeNotFound {
		t.Errorf("of a command that never was: %v", err)
	}
}

// Nobody holds a detached command back: the oldest output goes, and its readers are told.
func TestOutputLost(t *testing.T) {
	c, ctx := openAgent(t, &agent.Server{}), deadline(t)
	id := guest.NewID()
	const total = 8 << 20
	if err := c.Start(ctx, guest.ExecSpec{ID: id, Argv: sh(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", total))}); err != nil {
		t.Fatal(err)
	}
	reading, slow := make(chan bool), make(chan bool)
	done := make(chan error, 1)
	var followed said
	go func() {
		var once sync.Once
		done <- c.Output(ctx, id, [2]int64{}, true, func(o guest.Output) error {
			once.Do(func() { close(reading); <-slow }) // one that is slower than the command
			return followed.add(o)
		})
	}()
	<-reading
	eventually(t, "it ends", func() bool { l, _ := c.Sessions(ctx); return l[0].Exit != nil })
	close(slow)
	if err := <-done; err != nil {
		t.Error(err)
	}
	var s said
	if err := c.Output(ctx, id, [2]int64{}, false, s.add); err != nil {
		t.Fatal(err)
	}
	for who, s := range map[string]said{"followed": followed, "read at last": s} {
		if n := int64(len(s.text[0])); n+s.lost[0] != total || s.lost[0] == 0 || n < 3<<20 || strings.Trim(s.text[0], "x") != "" {
			t.Errorf("%s: %d bytes came and %d were lost, of %d", who, n, s.lost[0], total)
		}
	}
	if err := c.Signal(ctx, id, "KILL"); guest.CodeOf(err) != guest.CodeConflict {
		t.Error(err)
	}
}

// What a follower confirmed isn't kept, and its readers are told.
func TestOutputConfirmed(t *testing.T) {
	c, ctx := openAgent(t, &agent.Server{}), deadline(t)
	id := guest.NewID()
	gate := t.TempDir() + "/gate"
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, guest.ExecSpec{ID: id, Argv: sh("head -c 800000 /dev/zero; until test -e " + gate + "; do sleep 0.01; done")}, guest.IO{})
		done <- err
	}()
	var s said
	eventually(t, "something is confirmed", func() bool {
		s = said{}
		return c.Output(ctx, id, [2]int64{}, false, s.add) == nil && s.lost[0] > 0
	})
	if int64(len(s.text[0]))+s.lost[0] > 800000 {
		t.Errorf("%d bytes came, %v were lost", len(s.text[0]), s.lost)
	}
	write(t, gate, "", 0o600)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A detached command's output stays when somebody followed it, too: it makes room only for
// what comes. A follower misses nothing, however little is kept.
func TestOutputOfDetachedStays(t *testing.T) {
	c, ctx := openAgent(t, &agent.Server{}), deadline(t)
	id := guest.NewID()
	gate := t.TempDir() + "/gate"
	const first, more = 200000, 3 << 20
	script := fmt.Sprintf("head -c %d /dev/zero; until test -e %s; do sleep 0.01; done; head -c %d /dev/zero; echo end", first, gate, more)
	if err := c.Start(ctx, guest.ExecSpec{ID: id, Argv: sh(script), SpoolKiB: 256}); err != nil {
		t.Fatal(err)
	}
	var out atomic.Int64
	done := make(chan error, 1)
	go func() {
		_, err := c.Attach(ctx, id, guest.IO{Stdout: count{&out}})
		done <- err
	}()
	eventually(t, "a follower has the first part", func() bool { return out.Load() == first })
	var s said
	if err := c.Output(ctx, id, [2]int64{}, false, s.add); err != nil || len(s.text[0]) != first || s.lost[0] != 0 {
		t.Errorf("%d bytes are kept and %d aren't: %v", len(s.text[0]), s.lost[0], err)
	}
	write(t, gate, "", 0o600)
	if err := <-done; err != nil || out.Load() != first+more+4 {
		t.Errorf("the follower got %d bytes: %v", out.Load(), err)
	}
	for range 2 {
		var again bytes.Buffer
		var gap int64
		if _, err := c.Attach(ctx, id, guest.IO{Stdout: &again, Gap: func(_ string, n int64) { gap += n }}); err != nil {
			t.Fatal(err)
		}
		if n := int64(again.Len()); n+gap != first+more+4 || n < 128<<10 || !strings.HasSuffix(again.String(), "\x00end\n") {
			t.Errorf("later %d bytes came and %d didn't", n, gap)
		}
	}
	all, err := c.Sessions(ctx)
	if list := guest.CommandsOf("vm", all); err != nil || len(list) != 1 || !list[0].Detached || list[0].Dropped == 0 || list[0].Dropped > first+more {
		t.Errorf("%+v, %v", list, err)
	}
}

// count counts what is written.
type count struct{ n *atomic.Int64 }

func (c count) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

// A stream that breaks is taken up again; nothing comes twice.
func TestOutputBrokenStreams(t *testing.T) {
	c, ctx := openAgent(t, &agent.Server{}), deadline(t)
	id := guest.NewID()
	if err := c.Start(ctx, guest.ExecSpec{ID: id, Argv: sh("i=0; while test $i -lt 60000; do echo $i; i=$((i+1)); done")}); err != nil {
		t.Fatal(err)
	}
	dial, breaks := c.Dial, 0
	flaky := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		breaks++
		return &breaking{conn, 100_000}, err
	}}
	var s said
	if err := flaky.Output(ctx, id, [2]int64{}, true, s.add); err != nil || breaks < 3 {
		t.Fatalf("%v after %d streams", err, breaks)
	}
	var want strings.Builder
	for i := range 60000 {
		fmt.Fprintln(&want, i)
	}
	if s.text[0] != want.String() || s.lost != [2]int64{} {
		t.Errorf("%d bytes came of %d, %v were lost", len(s.text[0]), want.Len(), s.lost)
	}
}

// breaking is a stream that breaks after some bytes, which are more than a frame has: half a
// frame is no progress.
type breaking struct {
	net.Conn
	left int
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		_ = b.Conn.Close()
		return 0, net.ErrClosed
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
