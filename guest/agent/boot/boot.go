// Package boot is what the agent does as a machine's first program: PID 1 of
// the initramfs, the identity that makes a booted guest a VM, the neighbours
// that keep the agent alive, and the machine's orderly end.
//
// It knows nothing of how requests reach the agent, how commands are run in the guest, or
// what carries the bytes: that is passed in as functions.
//
// # Processes
//
// One program plays five parts, told apart by argv[0]:
//
//	/init              PID 1 until the image's init replaces it, or for good (Init)
//	@banger-agent      serves the host (Open, Machine)
//	@banger-guardian   starts an agent whenever there is none (Guard)
//	/shutdown          PID 1 at the very end, started by systemd-shutdown or by Init (End)
//	banger-tool        see package tool
//
// At shutdown systemd doesn't kill processes whose argv[0] begins with "@", or those in a
// cgroup of their own (https://systemd.io/ROOT_STORAGE_DAEMONS/).
//
// A file lock says whether an agent or a guardian lives: the kernel drops the lock when
// the process dies. Whoever starts one takes its lock first and hands it over as a
// descriptor, so that there is never a second one.
package boot

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// The argv[0] of the parts that aren't named by their path.
const (
	AgentName    = "@banger-agent"
	GuardianName = "@banger-guardian"
)

// Where things are in every guest, from /init to the end.
const (
	runDir       = "/run/banger"
	agentLock    = runDir + "/agent.lock"
	guardianLock = runDir + "/guardian.lock"
	modulesLock  = runDir + "/modules.lock" // held by PID 1 while it loads the early ones
	statePath    = runDir + "/state.json"
	socketPath   = runDir + "/agent.sock"
	keptDir      = "/kept"          // of the initramfs: files that stay as long as the machine runs
	endDir       = "/run/initramfs" // keptDir; systemd leaves mounts there alone, pivots here in the end and starts shutdown
	agentPath    = endDir + "/agent"
	cgroupRoot   = "/sys/fs/cgroup"
	agentCgroup  = cgroupRoot + "/banger"

	moduleDir = "/lib/banger"
	newRoot   = "/sysroot"
)

// stagesEnv carries Init's stages to the agent.
const stagesEnv = "BANGER_STAGES"

// defaultPath is PATH for all that we start: the kernel gives PID 1 none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// uptimeUS is the machine's uptime in microseconds.
func uptimeUS() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano() / 1000
}

// stopwatch notes how long the steps of a start took.
type stopwatch struct {
	stages []guest.Stage
	last   int64
}

func newStopwatch() *stopwatch { return &stopwatch{last: uptimeUS()} }

// lap ends the step called name.
func (s *stopwatch) lap(name string) {
	now := uptimeUS()
	s.stages = append(s.stages, guest.Stage{Name: name, AtUS: s.last, TookUS: now - s.last})
	s.last = now
}

// encodeStages and decodeStages carry stages through an environment variable.
func encodeStages(stages []guest.Stage) string {
	var b strings.Builder
	for _, s := range stages {
		fmt.Fprintf(&b, "%d %d %s\n", s.AtUS, s.TookUS, s.Name)
	}
	return b.String()
}

func decodeStages(text string) []guest.Stage {
	var stages []guest.Stage
	for line := range strings.Lines(text) {
		var s guest.Stage
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if _, err := fmt.Sscan(line, &s.AtUS, &s.TookUS); err == nil && len(f) == 3 {
			s.Name = f[2]
			stages = append(stages, s)
		}
	}
	return stages
}

// logf writes a line to the kernel's log as an error, which reaches even a quiet console:
// that is all there is to see of a guest that doesn't come up.
func logf(format string, args ...any) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "<3>banger: %s\n", fmt.Sprintf(format, args...))
}

// protect protects this process from the OOM killer and from the signals that an init
// sends to all processes. It catches the signals, as programs that we start would
// inherit that they are ignored.
func protect() {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		logf("oom_score_adj: %v", err)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
}

// cmdlineValue returns the value of name=value on the kernel's command line.
func cmdlineValue(name string) string {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	for _, f := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			return v
		}
	}
	return ""
}
