package agent_test

import (
	"io"
	"testing"

	"banger/agent"
	"banger/guest"
)

func BenchmarkExec(b *testing.B) { benchmarkExec(b, openAgent(b, &agent.Server{})) }

// benchmarkExec is the whole of an exec; overhead-us is what remains of it
// without the agent's own fork to wait.
func benchmarkExec(b *testing.B, c *guest.Client) {
	var took int64
	for b.Loop() {
		st, err := c.Exec(b.Context(), guest.ExecSpec{Argv: []string{"true"}, Dir: "/"}, guest.IO{})
		if err != nil || st.Code != 0 {
			b.Fatal(st, err)
		}
		took += st.TookUS
	}
	b.ReportMetric((float64(b.Elapsed().Microseconds())-float64(took))/float64(b.N), "overhead-us/op")
}

func BenchmarkStdout(b *testing.B) {
	c := openAgent(b, &agent.Server{})
	b.SetBytes(64 << 20)
	for b.Loop() {
		var n counter
		st, err := c.Exec(b.Context(), guest.ExecSpec{Argv: []string{"head", "-c", "64M", "/dev/zero"}}, guest.IO{Stdout: &n})
		if err != nil || st.Code != 0 || n != 64<<20 {
			b.Fatal(st, err, n)
		}
	}
}

func BenchmarkStdin(b *testing.B) {
	c := openAgent(b, &agent.Server{})
	b.SetBytes(64 << 20)
	for b.Loop() {
		st, err := c.Exec(b.Context(), guest.ExecSpec{Argv: []string{"sh", "-c", "cat >/dev/null"}, Stdin: true}, guest.IO{Stdin: io.LimitReader(zeros{}, 64<<20)})
		if err != nil || st.Code != 0 {
			b.Fatal(st, err)
		}
	}
}
