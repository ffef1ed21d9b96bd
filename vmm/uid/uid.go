// Package uid gives the VMM of a daemon of root a user id that nobody else has on this host, not even
// the VMM of another VM, of any state directory. An id is taken by making a symbolic link with its name that
// leads to the VM's directory. The links are gone after a reboot, as VMs are.
//
// It owns those links, and knows nothing of what runs with an id.
package uid

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

const (
	first = 1_900_000_000 // of a range that systemd's documentation (UIDS-GIDS.md) leaves unused
	count = 100_000_000
	tries = 16 // how many ids a VM may choose from, so that one is free
)

// Taken is the directory where the links are. Tests have it elsewhere.
var Taken = "/run/banger/users"

// choices returns the ids that a VM may take. The first one is nearly always free.
func choices(id string) (list [tries]int) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	for i := range list {
		list[i] = first + (int(h.Sum32()%count)+i)%count
	}
	return list
}

func link(user int) string { return filepath.Join(Taken, strconv.Itoa(user)) }

// has reports whether the VM in dir has taken an id.
func has(user int, dir string) bool {
	to, err := os.Readlink(link(user))
	return err == nil && to == dir
}

// Take takes an id for the VM in dir, or returns the one that it has.
func Take(id, dir string) (int, error) {
	if err := os.MkdirAll(Taken, 0o700); err != nil {
		return 0, fmt.Errorf("take a user id: %w", err)
	}
	for _, user := range choices(id) {
		switch err := os.Symlink(dir, link(user)); {
		case err == nil || has(user, dir):
			return user, nil
		case !errors.Is(err, fs.ErrExist):
			return 0, fmt.Errorf("take a user id: %w", err)
		}
	}
	return 0, fmt.Errorf("take a user id: every one of the %d for VM %s has another VM's link in %s", tries, id, Taken)
}

// Of returns the id that the VM in dir has taken. A VM that an older build started has
// the first of choices.
func Of(id, dir string) int {
	for _, user := range choices(id) {
		if has(user, dir) {
			return user
		}
	}
	return choices(id)[0]
}

// Free gives an id back, if the VM in dir has it.
func Free(user int, dir string) error {
	if !has(user, dir) {
		return nil
	}
	return os.Remove(link(user))
}
