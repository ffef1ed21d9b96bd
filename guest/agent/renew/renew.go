// Package renew makes a VM of a frozen guest: it brings a guest to its freeze point
// (Freeze), takes it on from there (Thaw), and makes new what all guests restored from one
// template share. Each Step renews one thing and checks that it was done.
//
// It knows nothing of how the root is assembled or how the agent talks to the host.
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

// ioctl requests that x/sys has no names for (include/uapi/linux/random.h).
const (
	randomAdd    = 0x40085203 // RNDADDENTROPY
	randomCredit = 0x40045201 // RNDADDTOENTCNT
	randomReseed = 0x5207     // RNDRESEEDCRNG
)

// Step makes one thing new. Do does it and checks that it was done.
type Step struct {
	Name string // one of guest.Renewals
	Do   func(guest.Identity) error
}

// Early returns the steps that come before all else: the clock and the random numbers, as
// all others may use them.
func Early() []Step {
	return []Step{
		{guest.RenewClock, func(id guest.Identity) error { return clock(id.Time) }},
		{guest.RenewRandom, func(id guest.Identity) error { return addEntropy(id.Entropy) }},
		{guest.RenewHostname, func(id guest.Identity) error { return hostname(id.Hostname) }},
	}
}

// Late returns the steps that come when root and network are ready, before any program of
// the image runs. They only check what package boot did.
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

// OpenRandom makes the kernel's generator answer before it has been seeded, which would
// take a second. Package link needs a number that is new but not secret. The host's seed
// comes with the identity, before anyone needs a secret.
func OpenRandom() error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	bits := int32(256)
	return ioctlPointer(int(f.Fd()), randomCredit, &bits)
}

// addEntropy credits seed to the kernel's pool and reseeds the generator: until then all
// guests of one template have the same state.
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

// reads returns an error unless a file has exactly the line want.
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

// Look reads what was made new, as programs do.
func Look() guest.Seen {
	line := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return "" // the host never asks for ""
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

// BootID reads the boot id as programs do. The kernel makes it when it is first read
// (proc_do_uuid in drivers/char/random.c), so nobody may read it before the generator is
// reseeded: we don't, and no program of the image has run by then. The host compares the
// boot ids of restored guests.
func BootID() (string, error) {
	id, err := os.ReadFile(bootIDPath)
	text := strings.TrimSpace(string(id))
	if err == nil && len(text) != 36 {
		err = errors.New("the kernel's boot id is no UUID")
	}
	return text, err
}
