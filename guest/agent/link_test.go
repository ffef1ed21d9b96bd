package agent_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/guest/link"
)

// openLinked serves over the link layer, on one socket pair for all streams, as
// in a guest.
func openLinked(t testing.TB) *guest.Client {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	host := link.New(os.NewFile(uintptr(fds[0]), "host"), link.Host)
	far := link.New(os.NewFile(uintptr(fds[1]), "guest"), link.Guest)
	s := &agent.Server{Sessions: &session.Table{}}
	served := make(chan error)
	go func() { served <- s.Serve(far) }()
	t.Cleanup(func() {
		_ = host.Close()
		_ = far.Close()
		<-served
	})
	return &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return host.Open(ctx) }}
}

func TestOverTheLink(t *testing.T) {
	c := openLinked(t)
	in := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(in)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			var out bytes.Buffer
			st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"cat"}, Stdin: true}, guest.IO{Stdin: bytes.NewReader(in), Stdout: &out})
			if err != nil || st.Code != 0 || !bytes.Equal(out.Bytes(), in) {
				t.Errorf("%+v, %v, %d bytes", st, err, out.Len())
			}
		})
	}
	all.Wait()
	for range 200 { // more than a link has streams: all were given back
		if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); err != nil || st.Code != 0 {
			t.Fatal(st, err)
		}
	}
	eventually(t, "no session is left", func() bool { l, err := c.Sessions(deadline(t)); return err == nil && len(l) == 0 })
}

func BenchmarkExecOverLink(b *testing.B) { benchmarkExec(b, openLinked(b)) }

// BenchmarkHealthOverLink is one small round trip.
func BenchmarkHealthOverLink(b *testing.B) {
	c := openLinked(b)
	for b.Loop() {
		if _, err := c.Health(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
