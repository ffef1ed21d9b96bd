package firecracker_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/guest/link"
)

var (
	coldRuns = flag.Int("cold-runs", 0, "how often a cold start is compared with the least that drives Firecracker")
	warmRuns = flag.Int("warm-runs", 0, "how often a start from a template is")
)

// A cold start to the agent's first answer, and the same by the smallest program:
// Firecracker spawned with the same configuration file, its vsock asked until
// somebody answers. In turn, so that both meet the same host.
func TestColdStart(t *testing.T) {
	if *coldRuns == 0 {
		t.Skip("measures; ask with -cold-runs 10")
	}
	d := newDriver(t)
	m := newMachine(t)
	m.Net = banger.NetConfig{Mode: banger.NetNone}
	m.Dir = t.TempDir()
	killLater(t, d, m)
	var ours, floor []time.Duration
	for range *coldRuns {
		began := time.Now()
		h, err := d.Start(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		healthy(t, func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, m) })
		ours = append(ours, time.Since(began))
		config, err := os.ReadFile(filepath.Join(m.Dir, "firecracker.json"))
		if err != nil {
			t.Fatal(err)
		}
		if left, err := d.Kill(t.Context(), m, h); err != nil || !left.Empty() {
			t.Fatalf("Kill left %+v: %v", left, err)
		}
		floor = append(floor, smallest(t, m, func(dir string) []string {
			if err := os.WriteFile(filepath.Join(dir, "c.json"), config, 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--config-file", "c.json"}
		}, nil))
	}
	compare(t, ours, floor)
}

// The same for a start from a template: the smallest program loads the same files.
func TestWarmStart(t *testing.T) {
	if *warmRuns == 0 {
		t.Skip("measures; ask with -warm-runs 10")
	}
	d := newDriver(t)
	plain := func() banger.Machine {
		m := newMachine(t)
		m.Net = banger.NetConfig{Mode: banger.NetNone}
		m.Dir = t.TempDir()
		killLater(t, d, m)
		return m
	}
	m, template := plain(), t.TempDir()
	h, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, m) }}
	if err := c.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Capture(t.Context(), m, h, template); err != nil {
		t.Fatal(err)
	}
	load := fmt.Sprintf(`{"snapshot_path":"%s/state","mem_backend":{"backend_type":"File","backend_path":"%[1]s/ram"},"resume_vm":true}`, template)
	var ours, floor []time.Duration
	for range *warmRuns {
		m := plain()
		began := time.Now()
		h, err := d.Restore(t.Context(), m, template)
		if err != nil {
			t.Fatal(err)
		}
		healthy(t, func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, m) })
		ours = append(ours, time.Since(began))
		if left, err := d.Kill(t.Context(), m, h); err != nil || !left.Empty() {
			t.Fatalf("Kill left %+v: %v", left, err)
		}
		floor = append(floor, smallest(t, m, func(string) []string { return nil }, func(dir string) error { return put(dir, load) }))
	}
	compare(t, ours, floor)
}

// put loads a template once the API listens.
func put(dir, body string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(dir, "a.sock"))
		if err != nil {
			if time.Now().After(end) {
				return err
			}
			continue
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "PUT /snapshot/load HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && !strings.Contains(line, "204") {
			err = fmt.Errorf("load: %q", line)
		}
		return err
	}
}

func compare(t *testing.T, ours, floor []time.Duration) {
	a, b := middle(ours), middle(floor)
	t.Logf("banger's driver to the agent's answer:  median %v of %v", a, ours)
	t.Logf("the smallest program to the same:       median %v of %v", b, floor)
	t.Logf("ratio of medians: %.3f (n=%d)", float64(a)/float64(b), len(ours))
}

func middle(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func healthy(t *testing.T, dial guest.Dialer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := guest.Client{Dial: dial}
	if _, err := c.Health(ctx); err != nil {
		t.Fatal(err)
	}
}

// smallest runs Firecracker in a directory with m's drives until the guest's agent
// answers. args prepares the directory, and tell what is told to who runs there.
func smallest(t *testing.T, m banger.Machine, args func(dir string) []string, tell func(dir string) error) time.Duration {
	t.Helper()
	dir := t.TempDir()
	for i, d := range m.Drives {
		if err := os.Symlink(d.Path, filepath.Join(dir, fmt.Sprintf("drive.%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	more := args(dir)
	began := time.Now()
	cmd := exec.Command(os.Getenv("BANGER_FIRECRACKER"), append([]string{"--id", "smallest", "--api-sock", "a.sock"}, more...)...)
	cmd.Dir, cmd.Stdout = dir, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if tell != nil {
		if err := tell(dir); err != nil {
			t.Fatal(err)
		}
	}
	for end := began.Add(3 * time.Minute); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(dir, "v.sock"))
		if err == nil {
			_, _ = fmt.Fprintf(conn, "CONNECT 512\n")
			var line string
			if line, err = bufio.NewReaderSize(conn, 16).ReadString('\n'); err == nil && strings.HasPrefix(line, "OK ") {
				mux := link.New(conn, link.Host)
				healthy(t, func(ctx context.Context) (net.Conn, error) { return mux.Open(ctx) })
				took := time.Since(began)
				_ = mux.Close()
				return took
			}
			_ = conn.Close()
		}
		if time.Now().After(end) {
			t.Fatal("nobody answers")
		}
	}
}
