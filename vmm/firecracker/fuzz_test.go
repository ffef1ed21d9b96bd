package firecracker

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/host/unixsock"
)

// Whatever a VMM answers, a question ends with a bounded reply or an error.
func FuzzAnswers(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\nServer: Firecracker API\r\nContent-Type: application/json\r\n"
	f.Add([]byte(ok + "Content-Length: 58\r\n\r\n" + `{"id":"banger-x","state":"Running","vmm_version":"1.16.1"}`))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 22\r\n\r\n" + `{"fault_message":"no"}`))
	f.Add([]byte(ok + "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{"))
	f.Add([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, file, err := unixsock.Pair()
		if err != nil {
			t.Fatal(err)
		}
		far, err := unixsock.Take(file)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		go func() {
			_, _ = far.Write(answer)
			_ = far.CloseWrite()
			_, _ = io.Copy(io.Discard, far)
		}()
		a := &api{client: http.Client{Transport: &http.Transport{
			DialContext:     func(context.Context, string, string) (net.Conn, error) { return near, nil },
			MaxConnsPerHost: 1,
		}}}
		defer near.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var i instance
		err = a.do(ctx, http.MethodGet, "/", nil, &i)
		switch {
		case ctx.Err() != nil:
			t.Error("it hangs")
		case err == nil && len(i.ID)+len(i.State) > maxReply:
			t.Errorf("an answer of %d bytes", len(i.ID)+len(i.State))
		case err != nil && strings.Contains(err.Error(), "Firecracker says") && len(err.Error()) > 4000:
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
