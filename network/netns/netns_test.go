package netns

import (
	"testing"
	"time"
)

// A host where it can't be done is told at once: `banger doctor` waits for it.
func TestProbeFailsAtOnce(t *testing.T) {
	begin := time.Now()
	if err := Probe(t.Context(), "/bin/false"); err == nil {
		t.Fatal("a program that hands nothing over passes for one that did")
	}
	if took := time.Since(begin); took >= handOver {
		t.Errorf("that took %s, as long as a hand-over is waited for", took)
	}
}
