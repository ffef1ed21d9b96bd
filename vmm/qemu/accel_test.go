package qemu_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/vmm/qemu"
)

// Releases whose processors hang when emulated in parallel get one at a time.
func TestParallelEmulation(t *testing.T) {
	for version, parallel := range map[string]bool{"7.2.22": false, "8.0.5": false, "8.1.0": true, "10.0.1": true} {
		d := qemu.New(qemu.Config{Binary: program(t, version), Shim: "/nonexistent", CacheDir: t.TempDir()})
		_, _, note, err := d.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if parallel == strings.Contains(note, "one at a time") {
			t.Errorf("%s: note %q", version, note)
		}
		for _, vcpu := range []int{1, 2} {
			argv, err := d.Command(t.Context(), banger.Machine{ID: "0123456789ab", VCPU: vcpu, MemoryMiB: 128})
			if err != nil {
				t.Fatal(err)
			}
			accel := argv[slices.Index(argv, "-accel")+1]
			if inTurn := vcpu > 1 && !parallel; !strings.HasPrefix(accel, "tcg,") || inTurn != strings.Contains(accel, "thread=single") {
				t.Errorf("%s with %d processors: -accel %s", version, vcpu, accel)
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
