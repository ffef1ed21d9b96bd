package main

import (
	"os"
	"path/filepath"
	"testing"
)

// An eighth, within bounds, and the same for hosts of the same size.
func TestFittingMemory(t *testing.T) {
	for have, want := range map[int]int{
		0: 512, 900: 512, 3900: 512, 5000: 512, 7700: 1024, 7950: 1024, 8192: 1024, 15800: 2048, 16384: 2048, 24105: 3072, 31900: 4096, 1 << 20: 4096,
	} {
		if got := fittingMemory(have); got != want {
			t.Errorf("%d MiB: %d, want %d", have, got, want)
		}
	}
}

// What a container may have counts, whatever its host has.
func TestOwnMemory(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(want int) {
		t.Helper()
		if got := ownMemory(root); got != want {
			t.Errorf("%d MiB, want %d", got, want)
		}
	}
	has(0)
	write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:        1024 kB\n")
	has(16384)
	write("sys/fs/cgroup/memory.max", "max\n")
	has(16384)
	write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
	has(16384)
	write("sys/fs/cgroup/memory.max", "4294967296\n")
	has(4096)
	write("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n")
	has(2048)
}
