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

// BesideGuest is what a QEMU has in memory beside its guest's, which is one file, its
// own or a template's.
func BesideGuest(pid int) (sum int64) {
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

func kibibytes(field string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(field, "kB")), 10, 64) // the kernel's own
	return n << 10
}
