package vm_test

import (
	"flag"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/test/vmtest"
)

var (
	benchRuns = flag.Int("bench-runs", 0, "how many runs of each kind the benchmark makes")
	benchOnly = flag.String("bench-only", "warm start", "the measurement that is run")
)

// The benchmark's own program, for a machine without Go or an installation: the lab.
func TestBench(t *testing.T) {
	if *benchRuns == 0 {
		t.Skip("measures; ask with -bench-runs 10")
	}
	h := vmtest.Configured(t, "")
	h.OK(t, "kernel", "list") // starts the daemon
	program := filepath.Join(h.Bin, "bench")
	cmd := exec.Command(program, "-n", strconv.Itoa(*benchRuns), "-only", *benchOnly, "-hypervisor", *vmtest.Hypervisor)
	cmd.Env = append(h.Env, "PATH="+h.Bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		t.Log(strings.TrimSuffix(line, "\n"))
	}
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
}
