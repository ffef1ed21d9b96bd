// Package lab_test is what only the lab can show: see cmd lab in the folder of
// that name, which compiles this package and runs it in a machine of its own.
package lab_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"banger/vmm/kvm"
)

// inLab skips the test anywhere else: it changes the host it runs on.
func inLab(t *testing.T) {
	t.Helper()
	if os.Getenv("BANGER_LAB") == "" {
		t.Skip("runs in the lab only: make lab")
	}
}

// What the other steps rest on is there: they would be judged by an emulation, or
// skipped, without it.
func TestHost(t *testing.T) {
	inLab(t)
	host, err := kvm.Probe(t.Context())
	if err != nil || host.Verdict != kvm.Works {
		t.Errorf("KVM: %+v, %v", host, err)
	}
	for _, argv := range [][]string{
		{"uname", "-r"},
		{"qemu-system-x86_64", "--version"},
		{"dmsetup", "version"},
		{"modprobe", "dm_snapshot"},
		{"nft", "list", "tables"},
		{"systemd-run", "--wait", "--quiet", "true"},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", strings.Join(argv, " "), err, out)
		} else if len(out) > 0 {
			t.Logf("%s: %s", strings.Join(argv, " "), strings.TrimSpace(string(out)))
		}
	}
	for _, path := range []string{"/dev/loop-control", "/dev/mapper/control", "/dev/vhost-vsock", "/sys/fs/cgroup/cgroup.controllers"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
