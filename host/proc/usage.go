package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Host is the banger.Processes of this host.
type Host struct{}

var _ banger.Processes = Host{}

// Signal sends a signal by its name without SIG.
func (Host) Signal(p banger.Process, signal string) error {
	sig := unix.SignalNum("SIG" + signal)
	if sig == 0 {
		return banger.Errorf(banger.CodeInvalid, "there is no signal %q", signal)
	}
	return Kill(p, sig)
}

// Usage implements banger.Processes.
func (Host) Usage(p banger.Process) (banger.Usage, error) {
	u, err := usage(p.PID)
	if err == nil && !Alive(p) { // asked after reading: so what was read is p's
		err = os.ErrNotExist
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return banger.Usage{}, banger.Errorf(banger.CodeNotRunning, "process %d has ended", p.PID)
	}
	return u, err
}

// clockTick is the unit of times in /proc/PID/stat on Linux for amd64:
// sysconf(_SC_CLK_TCK) is 100 there whatever the kernel's own rate.
const clockTick = 10 * time.Millisecond

// usage is that of a process and of those it started, and they: a VMM in a jail is several.
func usage(pid int) (banger.Usage, error) {
	u, err := own(pid)
	if err != nil {
		return u, err
	}
	below := descendants(pid)
	for _, p := range below {
		more, err := own(p)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it may have ended
			return u, err
		}
		u.CPUMS += more.CPUMS
		u.PSS += more.PSS
		u.Private += more.Private
	}
	if len(below) > 0 { // what they share among them is resident once
		u.RSS = u.PSS
		u.Shared = u.PSS - u.Private
	}
	return u, nil
}

// maxBelow bounds how many processes below one are looked at: a guest chooses how many there are.
const maxBelow = 16 << 10

func descendants(pid int) (list []int) {
	for next := []int{pid}; len(next) > 0 && len(list) < maxBelow; next = next[1:] {
		files, _ := filepath.Glob("/proc/" + strconv.Itoa(next[0]) + "/task/*/children") // the pattern is well-formed
		for _, f := range files {
			text, _ := os.ReadFile(f) // its thread may have ended
			for field := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(field); err == nil {
					list, next = append(list, child), append(next, child)
				}
			}
		}
	}
	return list
}

// own is the usage of one process, and the CPU time of its children that have ended.
func own(pid int) (banger.Usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return banger.Usage{}, err
	}
	f := fieldsOf(stat)
	if len(f) < 15 {
		return banger.Usage{}, fmt.Errorf("%s/stat has %d fields", dir, len(f)+2)
	}
	var u banger.Usage
	for _, field := range f[11:15] { // utime, stime, cutime and cstime, fields 14 to 17
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/stat: %w", dir, err)
		}
		u.CPUMS += ticks * clockTick.Milliseconds()
	}
	rollup, err := os.ReadFile(dir + "/smaps_rollup") // a dead one has none that can be read
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(rollup)) {
		key, rest, _ := strings.Cut(line, ":")
		sum := map[string]*int64{
			"Rss": &u.RSS, "Pss": &u.PSS, "Shared_Clean": &u.Shared, "Shared_Dirty": &u.Shared,
			"Private_Clean": &u.Private, "Private_Dirty": &u.Private,
		}[key]
		if sum == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/smaps_rollup: %s: %w", dir, key, err)
		}
		*sum += kib << 10
	}
	return u, nil
}
