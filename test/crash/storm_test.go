package crash_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/test/vmtest"
)

// Storms are short in an ordinary run; the flags make them as long as one likes.
var (
	daemonKills = flag.Int("daemon-kills", 60, "how often the channel storm kills the daemon")
	shimKills   = flag.Int("shim-kills", 8, "how often the channel storm kills the shim")
)

// While four streams run through one channel, the daemon and the shim are
// killed at random bytes. Every stream must be complete, with nothing stale in
// it, and nothing may hang.
func TestChannelStorm(t *testing.T) {
	name := vmtest.Shared.NewVM(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithCancel(t.Context())
	var streams sync.WaitGroup
	rounds := make([]int, 4)
	for n := range rounds {
		streams.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				if n%2 == 0 {
					countedOutput(t, name)
				} else {
					hashedInput(t, name, uint64(n), seed+uint64(rounds[n]))
				}
				rounds[n]++
			}
		})
	}
	every := max(1, *daemonKills/max(1, *shimKills))
	daemons, shims := 0, 0
	for n := 0; n < *daemonKills && !t.Failed(); n++ {
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond) // the random moment
		vmtest.Kill(t, vmtest.Shared.Daemon(t))
		daemons++
		if n%every == every-1 {
			time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
			vm := vmtest.Shared.Show(t, name)
			if err := syscall.Kill(vm.Held.Shim.PID, syscall.SIGKILL); err == nil {
				shims++
			}
		}
	}
	cancel()
	streams.Wait()
	t.Logf("%d daemon kills, %d shim kills, streams finished %v", daemons, shims, rounds)
	for n, r := range rounds {
		if r == 0 {
			t.Errorf("stream %d never came to an end", n)
		}
	}
	if shims == 0 && *shimKills > 0 {
		t.Error("no shim was killed")
	}
}

// countedOutput runs a command whose output says of each line which it is.
func countedOutput(t *testing.T, name string) {
	const lines = 200_000
	c := vmtest.Shared.Command(context.Background(), "vm", "exec", name, "--", "seq", "1", fmt.Sprint(lines))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Error(err)
		return
	}
	var errs strings.Builder
	c.Stderr = &errs
	if err := c.Start(); err != nil {
		t.Error(err)
		return
	}
	watchdog := time.AfterFunc(5*time.Minute, func() { t.Error("an output stream hangs"); _ = c.Process.Kill() })
	defer watchdog.Stop()
	in, n := bufio.NewScanner(out), 0
	for in.Scan() {
		if n++; in.Text() != fmt.Sprint(n) {
			t.Errorf("line %d reads %q", n, in.Text())
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := c.Wait(); err != nil || n != lines {
		t.Errorf("%d of %d lines, %v: %s", n, lines, err, errs.String())
	}
}

// hashedInput sends random bytes and compares what the guest made of them.
func hashedInput(t *testing.T, name string, a, b uint64) {
	const size = 4 << 20
	var seed [32]byte
	seed[0], seed[1], seed[2] = byte(a), byte(b), byte(b>>8)
	sum := sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), size), sum)
	c := vmtest.Shared.Command(context.Background(), "vm", "exec", name, "--", "sha256sum")
	var errs strings.Builder
	c.Stdin, c.Stderr = src, &errs
	watchdog := time.AfterFunc(5*time.Minute, func() { t.Error("an input stream hangs"); _ = c.Process.Kill() })
	defer watchdog.Stop()
	out, err := c.Output()
	if got, _, _ := strings.Cut(string(out), " "); err != nil || got != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("sha256sum says %q, %v: %s", out, err, errs.String())
	}
}
