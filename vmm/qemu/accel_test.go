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

// A machine that is to be emulated is, whatever the host has; one that is to be isolated by
// hardware isn't started without it.
func TestIsolation(t *testing.T) {
	m := banger.Machine{ID: "0123456789ab", VCPU: 1, MemoryMiB: 128, Dir: t.TempDir(), RAMDir: t.TempDir(), Kernel: "/k", Initramfs: "/i"}
	for _, c := range []struct {
		kvm  bool
		by   banger.Isolation
		want string
	}{{true, "", "kvm"}, {true, banger.ByHardware, "kvm"}, {true, banger.ByEmulation, "tcg"}, {false, "", "tcg"}, {false, banger.ByEmulation, "tcg"}} {
		d := qemu.New(qemu.Config{Binary: program(t, "9.0.0"), Shim: "/nonexistent", CacheDir: t.TempDir(), KVM: c.kvm})
		m.Isolation = c.by
		argv, err := d.Command(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if accel := argv[slices.Index(argv, "-accel")+1]; !strings.HasPrefix(accel, c.want) {
			t.Errorf("KVM %v, isolation %q: -accel %s", c.kvm, c.by, accel)
		}
	}
	d := qemu.New(qemu.Config{Binary: program(t, "9.0.0"), Shim: "/nonexistent", CacheDir: t.TempDir()})
	m.Isolation = banger.ByHardware
	if _, err := d.Start(t.Context(), m); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "isolated by hardware") {
		t.Errorf("without KVM: %v", err)
	}
}

// A host without a QEMU, or with one that won't do, runs what was fetched, by its own loader.
func TestFetched(t *testing.T) {
	own := program(t, "10.0.13")
	fetched := func() (string, []string) { return own, []string{"/bin/sh", own} }
	none := func() (string, []string) { return "", nil }
	m := banger.Machine{ID: "0123456789ab", VCPU: 1, MemoryMiB: 128}
	for name, c := range map[string]struct {
		binary  string
		fetched func() (string, []string)
		want    []string
		says    string
	}{
		"the host's own": {program(t, "9.0.0"), fetched, nil, ""},
		"none":           {"/nonexistent/qemu", fetched, []string{"/bin/sh", own}, ""},
		"too old":        {program(t, "6.2.0"), fetched, []string{"/bin/sh", own}, ""},
		"neither":        {"/nonexistent/qemu", none, nil, "no /nonexistent/qemu on this host"},
		"old alone":      {program(t, "6.2.0"), none, nil, "at least 7.2"},
	} {
		d := qemu.New(qemu.Config{Binary: c.binary, Shim: "/nonexistent", CacheDir: t.TempDir(), Fetched: c.fetched})
		if c.want == nil {
			c.want = []string{c.binary}
		}
		argv, err := d.Command(t.Context(), m)
		if c.says == "" && (err != nil || !slices.Equal(argv[:len(c.want)], c.want) || argv[len(c.want)] != "-name") {
			t.Errorf("%s: %v, %v", name, argv, err)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
