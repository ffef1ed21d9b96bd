package doctor

import (
	"fmt"
	"strings"
)

// system describes the host's software and processor in a few lines.
func system(h *Host) string {
	var b strings.Builder
	line := func(key, path, field string) {
		for l := range strings.Lines(h.text(path)) {
			k, v, ok := strings.Cut(l, field)
			if ok && strings.TrimSpace(k) == "" || ok && strings.HasPrefix(l, "model name") {
				_, _ = fmt.Fprintf(&b, "%s: %s\n", key, strings.Trim(strings.TrimSpace(strings.TrimLeft(v, "\t :=")), `"`))
				return
			}
		}
	}
	line("system", "/etc/os-release", "PRETTY_NAME=")
	line("kernel", "/proc/version", "Linux version")
	line("processor", "/proc/cpuinfo", "model name")
	line("memory", "/proc/meminfo", "MemTotal:")
	return b.String()
}
