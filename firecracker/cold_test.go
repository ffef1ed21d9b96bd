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
	"banger/link"
)

var coldRuns = flag.Int("cold-runs", 0, "how often a cold start is compared with the least that drives Firecracker")

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
		floor = append(floor, smallest(t, config))
	}
	a, b := middle(ours), middle(floor)
	t.Logf("banger's driver to the agent's answer:  median %v of %v", a, ours)
	t.Logf("the smallest program to the same:       median %v of %v", b, floor)
	t.Logf("ratio of medians: %.3f (n=%d)", float64(a)/float64(b), *coldRuns)
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

// smallest runs Firecracker with a configuration until the guest's agent answers.
func smallest(t *testing.T, config []byte) time.Duration {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cmd := exec.Command(os.Getenv("BANGER_FIRECRACKER"), "--id", "smallest", "--config-file", "c.json", "--api-sock", "a.sock")
	cmd.Dir, cmd.Stdout = dir, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
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
