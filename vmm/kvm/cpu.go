package kvm

import (
	"bytes"
	"io"
	"os"
)

// HostCPU describes the host's first processor, without what changes all the time
// (proc_cpuinfo(5)); "" if it can't be read. A guest's processor depends on it, and a
// restored guest can't go on with another one.
func HostCPU() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 8<<10)
	n, _ := io.ReadFull(f, head) // short is fine
	var text []byte
	for line := range bytes.Lines(head[:n]) {
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		for _, field := range []string{"vendor_id", "cpu family", "model", "stepping", "microcode", "flags"} {
			if bytes.HasPrefix(line, []byte(field)) {
				text = append(text, line...)
			}
		}
	}
	return string(text)
}
