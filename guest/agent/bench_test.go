package agent_test

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent"
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

// bulk is what the benchmarks below carry.
const bulk = 64 << 20

// cpuPerSide reports half of the processor time that this process takes from here on,
// of which one half is the client's and one the agent's, without the command's own.
func cpuPerSide(b *testing.B) (report func()) {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began := used()
	b.ReportAllocs()
	b.SetBytes(bulk)
	return func() {
		b.ReportMetric(float64((used()-began).Microseconds())/2000/float64(b.N), "cpu-ms/side")
	}
}

func benchmarkStdout(b *testing.B, c *guest.Client) {
	defer cpuPerSide(b)()
	for b.Loop() {
		var n counter
		st, err := c.Exec(b.Context(), guest.ExecSpec{Argv: []string{"head", "-c", "64M", "/dev/zero"}}, guest.IO{Stdout: &n})
		if err != nil || st.Code != 0 || n != bulk {
			b.Fatal(st, err, n)
		}
	}
}

func benchmarkStdin(b *testing.B, c *guest.Client) {
	defer cpuPerSide(b)()
	for b.Loop() {
		st, err := c.Exec(b.Context(), guest.ExecSpec{Argv: []string{"sh", "-c", "cat >/dev/null"}, Stdin: true}, guest.IO{Stdin: io.LimitReader(zeros{}, bulk)})
		if err != nil || st.Code != 0 {
			b.Fatal(st, err)
		}
	}
}

func BenchmarkStdout(b *testing.B)         { benchmarkStdout(b, openAgent(b, &agent.Server{})) }
func BenchmarkStdin(b *testing.B)          { benchmarkStdin(b, openAgent(b, &agent.Server{})) }
func BenchmarkStdoutOverLink(b *testing.B) { benchmarkStdout(b, openLinked(b)) }
func BenchmarkStdinOverLink(b *testing.B)  { benchmarkStdin(b, openLinked(b)) }
