package machine

import (
	"testing"

	"banger"
)

// A host that runs another kernel restores nothing that was frozen under the last.
func TestHostKernel(t *testing.T) {
	const file = "kind.go"
	m := banger.Machine{VCPU: 1, MemoryMiB: 256, Kernel: file, Initramfs: file}
	digest := func() string {
		t.Helper()
		k, err := Kind(m, nil)
		if err != nil || len(k) != 64 {
			t.Fatalf("%q, %v", k, err)
		}
		return k
	}
	today := digest()
	if again := digest(); again != today {
		t.Errorf("the same machine is of kind %s and %s", today, again)
	}
	release = func() (string, error) { return "7.0.0-next", nil }
	if digest() == today {
		t.Error("another kernel makes no other kind")
	}
}
