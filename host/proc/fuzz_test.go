package proc

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// Whatever a program calls itself, the fields behind its name are the kernel's.
func FuzzStat(f *testing.F) {
	const rest = "S 1 7 7 0 -1 4194560 100 0 0 0 11 12 0 0 20 0 1 0 4711 0 0"
	for _, name := range []string{"sh", ") R 9 9 (", "a b\n", "((", ""} {
		f.Add([]byte(name))
	}
	if own, err := os.ReadFile("/proc/self/stat"); err != nil || len(fieldsOf(own)) < 20 {
		f.Fatalf("%q, %v", own, err)
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		stat := append(append([]byte("7 ("), name...), ") "+rest+"\n"...)
		if got := string(bytes.Join(fieldsOf(stat), []byte(" "))); got != strings.TrimSpace(rest) {
			t.Errorf("%q has the fields %q", stat, got)
		}
	})
}
