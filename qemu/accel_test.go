package qemu_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/qemu"
)

// Releases whose processors hang when emulated in parallel get one at a time.
func TestParallelEmulation(t *testing.T) {
	for version, want := range map[string]string{
		"7.2.22": "tcg,thread=single", "8.0.5": "tcg,thread=single", "8.1.0": "tcg", "10.0.1": "tcg",
	} {
		binary := program(t, version)
		d := qemu.New(qemu.Config{Binary: binary, Shim: "/nonexistent", CacheDir: t.TempDir()})
		_, _, note, err := d.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if serial := want != "tcg"; serial != strings.Contains(note, "one at a time") {
			t.Errorf("%s: note %q", version, note)
		}
		for vcpu, want := range map[int]string{1: "tcg", 2: want} {
			argv, err := d.Command(t.Context(), banger.Machine{ID: "0123456789ab", VCPU: vcpu, MemoryMiB: 128})
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.Index(argv, "-accel"); i < 0 || argv[i+1] != want {
				t.Errorf("%s with %d processors: %v, want %s", version, vcpu, argv, want)
			}
		}
	}
}

// program makes something that answers as a QEMU of this version does.
func program(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	text := "#!/bin/sh\nif [ \"$1\" = -version ]; then echo QEMU emulator version " + version + "; else printf 'Supported machines are:\\nmicrovm x\\n'; fi\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
