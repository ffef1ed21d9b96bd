package uevent_test

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest/agent/uevent"
)

// inNetns puts the test's thread into a network namespace of its own: a network
// device's events are told there alone. The thread ends with the test.
func inNetns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace can be made here:", err)
	}
}

func addDevice(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "add", name, "type", "veth").CombinedOutput(); err != nil {
		t.Skipf("no device can be made here: %v: %s", err, out)
	}
}

// waited is how long it takes until a device's event ends a wait for a subsystem's.
func waited(t *testing.T, subsystem string, atMost time.Duration) time.Duration {
	t.Helper()
	inNetns(t)
	e := uevent.Listen(subsystem)
	defer e.Close()
	addDevice(t, "one")
	began := time.Now()
	e.Wait(atMost)
	return time.Since(began)
}

const soon, late = 50 * time.Millisecond, 20 * time.Second

// An event of the subsystem ends the wait, also one from before it.
func TestEvents(t *testing.T) {
	if took := waited(t, "net", late); took >= late {
		t.Errorf("the event ended nothing in %v", took)
	}
}

// Those of others don't, nor does silence.
func TestOthers(t *testing.T) {
	if took := waited(t, "block", soon); took < soon {
		t.Errorf("another's event ended the wait after %v", took)
	}
}

// Closed, it isn't a way to wait for nothing in no time.
func TestClosed(t *testing.T) {
	e := uevent.Listen("net")
	e.Close()
	began := time.Now()
	e.Wait(soon)
	if took := time.Since(began); took < time.Millisecond {
		t.Errorf("waited for %v", took)
	}
}
