// Package attack is a broken kernel: a program that runs in a VMM's place and tries all that a process of
// the host could do. It says of each attempt what came of it. Package jail judges by that whether a jail stands,
// on this host and now.
//
// It owns what is tried. It knows nothing of how a jail is made: only where the
// host has laid out what mustn't be reached.
package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Arg is the argument that makes a program call Main.
const Arg = "attack"

// Bait is what the host has laid out, and what a jail may allow.
type Bait struct {
	PID      int    `json:"pid"`      // a process of the same user
	File     string `json:"file"`     // a file that the user may read and write
	Socket   string `json:"socket"`   // a stream socket that listens
	Abstract string `json:"abstract"` // one of the abstract kind
	Port     int    `json:"port"`     // of 127.0.0.1, TCP
	Memory   int    `json:"memory"`   // shared memory (shmget(2)); 0: none
	Key      int    `json:"key"`      // a key (keyctl(2)); 0: none
	Allowed  Bounds `json:"allowed"`
}

// Bounds is what a jail gives.
type Bounds struct {
	Calls       []int `json:"calls"`       // numbers of system calls that aren't refused as such
	Descriptors []int `json:"descriptors"` // open ones
	Processes   int   `json:"processes"`
	Files       int   `json:"files"`   // descriptors
	Scratch     int64 `json:"scratch"` // bytes of /tmp
	FileSize    int64 `json:"file_size"`
	Data        int64 `json:"data"` // bytes of private memory
}

// Result is what came of one attempt.
type Result struct {
	Area string `json:"area"`
	What string `json:"what"`
	Got  string `json:"got"`            // an error's name, or a fact
	Hole bool   `json:"hole,omitempty"` // it succeeded
}

// attempt returns what it got, and whether that is a hole.
type attempt struct {
	area, what string
	try        func(b Bait) (got string, hole bool)
}

// Main tries everything and writes a Result a line to stdout. args has a Bait.
func Main(args []string) int {
	var b Bait
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &b) != nil {
		fmt.Fprintln(os.Stderr, "usage: attack BAIT, by a jail's judge only")
		return 2
	}
	runtime.LockOSThread()
	out := json.NewEncoder(os.Stdout)
	for _, a := range attempts {
		got, hole := a.try(b)
		if err := out.Encode(Result{a.area, a.what, got, hole}); err != nil {
			return 1
		}
	}
	// The last line: all was tried.
	if err := out.Encode(Result{Area: Done}); err != nil {
		return 1
	}
	return 0
}

// Done is the area of the last Result.
const Done = "done"

// attempts are all, in the order in which they are tried: what uses things up comes last.
var attempts = slices.Concat(files, processes, outside, kernel, exhaustion)

// failed says that an attempt succeeded if it gave no error.
func failed(err error) (string, bool) {
	if err == nil {
		return "succeeded", true
	}
	if errno, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(errno), false
	}
	return err.Error(), false
}

// call tries a system call.
func call(nr uintptr, args ...uintptr) func(Bait) (string, bool) {
	var a [6]uintptr
	copy(a[:], args)
	return func(Bait) (string, bool) { return failed(syscall6(nr, a)) }
}

func syscall6(nr uintptr, a [6]uintptr) error {
	if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// all tries several things, of which none may succeed.
func all(tries ...func(Bait) (string, bool)) func(Bait) (string, bool) {
	return func(b Bait) (got string, hole bool) {
		seen := map[string]bool{}
		for _, try := range tries {
			g, h := try(b)
			if h {
				return g, true
			}
			if !seen[g] {
				seen[g] = true
				if got != "" {
					got += ", "
				}
				got += g
			}
		}
		return got, false
	}
}

// canOpen tries to open a file.
func canOpen(path string, flags int) func(Bait) (string, bool) {
	return func(Bait) (string, bool) { return opened(unix.AT_FDCWD, path, flags) }
}

func opened(at int, path string, flags int) (string, bool) {
	fd, err := unix.Openat(at, path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err == nil {
		_ = unix.Close(fd)
	}
	return failed(err)
}

const all1s = ^uintptr(0)
