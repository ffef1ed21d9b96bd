package tests_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	root "banger"
	"banger/api"
	"banger/guest"
	"banger/host/unixsock"
)

// newGuest starts a daemon with the running VM web, and returns its socket and a client of
// the guest.
func newGuest(t *testing.T) (socket string, g *guest.Client) {
	t.Helper()
	socket = newDaemon(t)
	c := stocked(t, socket)
	if _, err := c.VMs().CreateVM(t.Context(), root.Spec{Name: "web"}, true, nil); err != nil {
		t.Fatal(err)
	}
	return socket, &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return c.VMs().Dial(ctx, "web") }}
}

// stocked gives a daemon a kernel and an image, and returns its client.
func stocked(t *testing.T, socket string) *api.Client {
	t.Helper()
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, socket) })
	tree, err := os.Open(rootTar(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for what, err := range map[string]error{
		"pull":   second(c.Kernels().PullKernel(ctx, "", false, nil)),
		"import": second(c.Images().ImportImage(ctx, "debian-12", "", true, tree, nil)),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	return c
}

// running returns the ids of the tools of a name that run in a guest.
func running(t *testing.T, g *guest.Client, tool string) (ids []string) {
	t.Helper()
	all, err := g.Sessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Exit == nil && s.Spec.Tool == tool {
			ids = append(ids, s.Spec.ID)
		}
	}
	return ids
}

// until waits for what must come.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came: %s", what)
		}
	}
}

// A tar that broke off doesn't look whole, on either way, and leaves nothing that runs.
func TestFilesCut(t *testing.T) {
	socket, g := newGuest(t)
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, socket) }}}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<30); err != nil {
		t.Fatal(err)
	}
	resp, err := h.Get("http://banger/v2/vms/web/files?path=" + big)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	packing := running(t, g, "tar")
	if len(packing) != 1 {
		t.Fatalf("%d are packing", len(packing))
	}
	if err := g.Signal(t.Context(), packing[0], "KILL"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("after %d bytes more it looks whole", n)
	}
	_ = resp.Body.Close()

	resp, err = h.Get("http://banger/v2/vms/web/files?path=" + big)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // the client leaves
	until(t, "the packing ends", func() bool { return len(running(t, g, "tar")) == 0 })

	r, w := io.Pipe()
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "PUT", "http://banger/v2/vms/web/files?path="+t.TempDir(), r)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		_, err := h.Do(req)
		left <- err
	}()
	tree, err := os.ReadFile(rootTar(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(tree[:len(tree)/2]); err != nil {
		t.Fatal(err)
	}
	until(t, "the unpacking begins", func() bool { return len(running(t, g, "untar")) == 1 })
	leave()
	_ = w.Close()
	if err := <-left; err == nil {
		t.Error("a client that left was answered")
	}
	until(t, "the unpacking ends", func() bool { return len(running(t, g, "untar")) == 0 })
}
