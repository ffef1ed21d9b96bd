package kvm_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"banger/vmm/kvm"
)

func probe(t *testing.T) kvm.Result {
	t.Helper()
	r, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	return r
}

func TestProbe(t *testing.T) {
	r := probe(t)
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	var possible []kvm.Verdict
	switch {
	case errors.Is(err, os.ErrNotExist):
		possible = []kvm.Verdict{kvm.Missing}
	case errors.Is(err, os.ErrPermission):
		possible = []kvm.Verdict{kvm.Denied}
	default:
		possible = []kvm.Verdict{kvm.Works, kvm.Crawls, kvm.Broken}
	}
	found := false
	for _, p := range possible {
		found = found || r.Verdict == p
	}
	if !found || r.Detail == "" || r.BootID == "" {
		t.Errorf("opening the device: %v; the verdict is %+v, want one of %q", err, r, possible)
	}
	if r.Verdict == kvm.Crawls && r.Guest < 20*r.Native {
		t.Errorf("judged to crawl at %v against %v", r.Guest, r.Native)
	}
}

// Two measurements of one counter must agree, far better than the 500 ppm
// that a clock set by it could be corrected for.
func TestTSCIsSteady(t *testing.T) {
	a, b := probe(t).TSCKHz, probe(t).TSCKHz
	if a == 0 && b == 0 {
		t.Skip("this processor's time stamp counter isn't constant")
	}
	if ppm := math.Abs(float64(a-b)) / float64(a) * 1e6; ppm > 100 {
		t.Errorf("measured %d and %d kHz: %.1f ppm apart", a, b, ppm)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kvm.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context ended", err)
	}
}

func TestCached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvm.json")
	first, err := kvm.Cached(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	// A mark tells a cached answer from a new one.
	marked := first
	marked.Detail = "from the cache"
	write := func(r kvm.Result) {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, fromCache bool) {
		t.Helper()
		got, err := kvm.Cached(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if (got.Detail == marked.Detail) != fromCache {
			t.Errorf("%s: got %+v, from the cache: want %v", what, got, fromCache)
		}
	}
	write(marked)
	check("same boot", first.Verdict == kvm.Works || first.Verdict == kvm.Crawls)
	otherBoot := marked
	otherBoot.BootID = "another"
	write(otherBoot)
	check("another boot", false)
	denied := marked
	denied.Verdict = kvm.Denied
	write(denied)
	check("permission denied then", false)
	// The rate that guests were told before is kept, unless it is another.
	for _, rate := range []int{first.TSCKHz + 3, first.TSCKHz * 2} {
		denied.TSCKHz = rate
		write(denied)
		got, err := kvm.Cached(t.Context(), path)
		if err != nil || first.TSCKHz > 0 && (got.TSCKHz == rate) != (rate == first.TSCKHz+3) {
			t.Errorf("measured %d, kept %d, got %d, %v", first.TSCKHz, rate, got.TSCKHz, err)
		}
	}
	if err := os.WriteFile(path, []byte(`{"boot_id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	check("torn file", false)
	check("a new answer", false)
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
