// Package renew is what stands between a frozen guest and a VM: it brings a
// guest to its freeze point (Freeze), takes it on from there (Thaw), and makes
// new whatever a guest shares with all others restored from the same template
// (the functions that say what they renew, and Steps, which does it and checks
// that it was done).
//
// It refuses to know how the root is put together and what speaks to the host.
package renew

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// ioctl requests x/sys has no names for: include/uapi/linux/random.h.
const (
	randomAdd    = 0x40085203 // RNDADDENTROPY
	randomCredit = 0x40045201 // RNDADDTOENTCNT
	randomReseed = 0x5207     // RNDRESEEDCRNG
)

// Step makes one thing new. Do does it and looks whether it was done.
type Step struct {
	Name string // one of guest.Renewals
	Do   func(guest.Identity) error
}

// Early returns the steps that come before anything else, in their order: the
// clock and the random numbers, since everything after may look at them.
func Early() []Step {
	return []Step{
		{guest.RenewClock, func(id guest.Identity) error { return clock(id.Time) }},
		{guest.RenewRandom, func(id guest.Identity) error { return addEntropy(id.Entropy) }},
		{guest.RenewHostname, func(id guest.Identity) error { return hostname(id.Hostname) }},
	}
}

// Late returns the steps that come when root and network stand, before any
// program of the image runs. They only look: what they look at is the work of
// package boot.
func Late() []Step {
	return []Step{
		{guest.RenewMachineID, func(id guest.Identity) error { return reads("/etc/machine-id", id.MachineID) }},
		{guest.RenewNetwork, checkNetwork},
	}
}

// Run does the steps and returns the names of those that were done. The error
// names the one that wasn't; those after it weren't tried.
func Run(id guest.Identity, steps []Step) (done []string, err error) {
	for _, s := range steps {
		if err := s.Do(id); err != nil {
			return done, fmt.Errorf("renew %s: %w", s.Name, err)
		}
		done = append(done, s.Name)
	}
	return done, nil
}

// SetClock sets the guest's wall clock.
func SetClock(now time.Time) error {
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set clock to %v: %w", now, err)
	}
	return nil
}

// clockSlack is how far a clock may be from what it was just set to.
const clockSlack = time.Second

func clock(now time.Time) error {
	if err := SetClock(now); err != nil {
		return err
	}
	if off := time.Until(now).Abs(); off > clockSlack {
		return fmt.Errorf("the clock is %v off after it was set", off)
	}
	return nil
}

// OpenRandom makes the kernel's generator answer before it has been seeded. To
// ask it would take a second otherwise, and what carries the host's streams asks
// for a number that need only be new, not secret. The host's seed comes with the
// identity, before anyone could ask for a secret.
func OpenRandom() error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	bits := int32(256)
	return ioctlPointer(int(f.Fd()), randomCredit, &bits)
}

// addEntropy credits seed to the kernel's pool and has its generator use it at
// once: guests started from one template have the same state until then.
func addEntropy(seed []byte) error {
	if len(seed) < 32 || len(seed) > 256 {
		return fmt.Errorf("%d bytes of entropy, not 32 to 256", len(seed))
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var pool struct { // struct rand_pool_info
		bits, size int32
		data       [256]byte
	}
	pool.bits, pool.size = int32(len(seed)*8), int32(len(seed))
	copy(pool.data[:], seed)
	if err := ioctlPointer(int(f.Fd()), randomAdd, &pool); err != nil {
		return fmt.Errorf("credit entropy: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), randomReseed, 0); err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	return nil
}

func ioctlPointer[T any](fd int, request uintptr, arg *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

func hostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return reads("/proc/sys/kernel/hostname", name)
}

// reads reports as an error that a file doesn't hold the line it should.
func reads(path, want string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if text := string(bytes.TrimSpace(got)); text != want {
		return fmt.Errorf("%s says %.80q, not %q", path, text, want)
	}
	return nil
}

// checkNetwork makes sure that the one network device has this VM's address:
// what the device itself says is the template's.
func checkNetwork(id guest.Identity) error {
	if id.Net == nil {
		return nil
	}
	return reads("/sys/class/net/eth0/address", strings.ToLower(id.Net.MAC))
}

// Look reads what was made new, as a program would.
func Look() guest.Seen {
	line := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return "" // which is nobody's
		}
		return string(bytes.TrimSpace(text))
	}
	seen := guest.Seen{MachineID: line("/etc/machine-id"), MAC: line("/sys/class/net/eth0/address")}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		seen.Hostname = unix.ByteSliceToString(u.Nodename[:])
	}
	seen.Time = time.Now()
	return seen
}

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID reads this boot's id as programs do. The kernel makes it up when it is
// first asked for (proc_do_uuid in drivers/char/random.c), so nobody may ask
// before the generator was reseeded: nothing of ours does, and nothing of the
// image has run by then. The host compares what restored guests report.
func BootID() (string, error) {
	id, err := os.ReadFile(bootIDPath)
	text := strings.TrimSpace(string(id))
	if err == nil && len(text) != 36 {
		err = errors.New("the kernel's boot id is no UUID")
	}
	return text, err
}
