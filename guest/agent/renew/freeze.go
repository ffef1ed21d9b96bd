package renew

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// Where the kernel shows the devices of its virtio bus.
const virtioBus = "/sys/bus/virtio"

// Kinds of virtio devices (virtio 1.2, section 5).
const (
	deviceBlock = "0x0002"
)

// frozen is set from Freeze to Thaw.
var frozen atomic.Bool

// Freeze brings the guest to the point where a template may be made of it. load loads the
// drivers of the machine's devices, which saves each restored guest a tenth of a second a
// module under emulation. No driver looks at its device yet, as a restored guest has other
// ones. When the host has disconnected from the channel, as hungUp reports, Freeze writes
// guest.FrozenLine to the console.
func Freeze(hungUp func() (bool, error), load func() error) error {
	if !frozen.CompareAndSwap(false, true) {
		return nil
	}
	if err := os.WriteFile(virtioBus+"/drivers_autoprobe", []byte("0"), 0); err != nil {
		return fmt.Errorf("keep drivers from their devices: %w", err)
	}
	if err := load(); err != nil {
		return err
	}
	go sayFrozen(hungUp)
	return nil
}

// sayFrozen waits for the host to disconnect, and then writes guest.FrozenLine.
func sayFrozen(hungUp func() (bool, error)) {
	for {
		gone, err := hungUp()
		if err != nil {
			return // without the line, no template is made of this guest
		}
		if gone {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, "%s\n", guest.FrozenLine)
		f.Close()
	}
}

// Thaw lets the drivers of a frozen guest find its disks, and returns a function that does
// so for the other devices. It does nothing, and returns nil, in a guest that wasn't
// frozen.
func Thaw() (others func() error, err error) {
	if !frozen.CompareAndSwap(true, false) {
		return nil, nil
	}
	if err := os.WriteFile(virtioBus+"/drivers_autoprobe", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("let drivers find their devices: %w", err)
	}
	isBlock := func(kind string) bool { return kind == deviceBlock }
	if err := probe(isBlock); err != nil {
		return nil, err
	}
	return func() error { return probe(func(kind string) bool { return !isBlock(kind) }) }, nil
}

// probe lets devices without a driver find theirs.
func probe(want func(kind string) bool) error {
	devices, err := filepath.Glob(virtioBus + "/devices/*")
	if err != nil {
		return err
	}
	for _, dev := range devices {
		if _, err := os.Lstat(dev + "/driver"); err == nil {
			continue
		}
		kind, err := os.ReadFile(dev + "/device")
		if err != nil {
			return err
		}
		if !want(strings.TrimSpace(string(kind))) {
			continue
		}
		// A device without a driver isn't an error: what needs it will give a better message.
		if err := os.WriteFile(virtioBus+"/drivers_probe", []byte(filepath.Base(dev)), 0); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("driver of %s: %w", filepath.Base(dev), err)
		}
	}
	return nil
}
