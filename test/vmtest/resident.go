package vmtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Resident is what a process has in memory, in bytes; 0 when there is none.
func Resident(pid int) int64 {
	for line := range textLines(fmt.Sprintf("/proc/%d/status", pid)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return kibibytes(kib)
		}
	}
	return 0
}

// BesideGuest is what a VM's VMM has in memory beside its guest's. With QEMU pid is all of
// it, and the guest's memory is one file, its own or a template's. With User-mode Linux pid
// is one of the processes of a jail, and the guest's memory is what they share.
func BesideGuest(pid int) (sum int64) {
	if *Hypervisor == "uml" {
		return besideJailed(pid)
	}
	argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	_, ram, _ := strings.Cut(string(argv), "mem-path=")
	ram, _, _ = strings.Cut(ram, ",")
	guest := false
	for line := range textLines(fmt.Sprintf("/proc/%d/smaps", pid)) {
		f := strings.Fields(line)
		if len(f) > 1 && !strings.HasSuffix(f[0], ":") {
			guest = len(f) > 5 && f[5] == ram
		}
		if kib, ok := strings.CutPrefix(line, "Rss:"); ok && !guest {
			sum += kibibytes(kib)
		}
	}
	return sum
}

// besideJailed adds up a jail: it has a PID namespace of its own.
func besideJailed(pid int) (sum int64) {
	jail, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	all, _ := os.ReadDir("/proc")
	for _, p := range all {
		if in, e := os.Readlink("/proc/" + p.Name() + "/ns/pid"); err != nil || e != nil || in != jail {
			continue
		}
		for line := range textLines("/proc/" + p.Name() + "/status") {
			for _, what := range []string{"RssAnon:", "RssFile:"} {
				if kib, ok := strings.CutPrefix(line, what); ok {
					sum += kibibytes(kib)
				}
			}
		}
	}
	return sum
}

func kibibytes(field string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(field, "kB")), 10, 64) // the kernel's own
	return n << 10
}
