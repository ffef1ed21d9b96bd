package firecracker

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// A jailed Firecracker has a user id that nobody else has on this host, not even the
// Firecracker of another VM, of any state directory. An id is taken by making a symbolic
// link with its name that leads to the VM's directory. The links are gone after a reboot, as
// VMs are.

const (
	firstUser = 1_900_000_000 // of a range that systemd's documentation (UIDS-GIDS.md) leaves unused
	users     = 100_000_000
	userTries = 16 // how many ids a VM may choose from, so that one is free
)

// takenUsers is where the links are.
var takenUsers = "/run/banger/users"

// usersFor returns the ids that a VM may take. The first one is nearly always free.
func usersFor(id string) (list [userTries]int) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	for i := range list {
		list[i] = firstUser + (int(h.Sum32()%users)+i)%users
	}
	return list
}

func userLink(user int) string { return filepath.Join(takenUsers, strconv.Itoa(user)) }

// has reports whether the VM in dir has taken an id.
func has(user int, dir string) bool {
	link, err := os.Readlink(userLink(user))
	return err == nil && link == dir
}

// takeUser takes an id for the VM in dir, or returns the one that it has.
func takeUser(id, dir string) (int, error) {
	if err := os.MkdirAll(takenUsers, 0o700); err != nil {
		return 0, fmt.Errorf("take a user id: %w", err)
	}
	for _, user := range usersFor(id) {
		switch err := os.Symlink(dir, userLink(user)); {
		case err == nil || has(user, dir):
			return user, nil
		case !errors.Is(err, fs.ErrExist):
			return 0, fmt.Errorf("take a user id: %w", err)
		}
	}
	return 0, fmt.Errorf("take a user id: every one of the %d for VM %s has another VM's link in %s", userTries, id, takenUsers)
}

// userOf returns the id that the VM in dir has taken. A VM that an older build started has
// the first of usersFor.
func userOf(id, dir string) int {
	for _, user := range usersFor(id) {
		if has(user, dir) {
			return user
		}
	}
	return usersFor(id)[0]
}

// freeUser gives an id back, if the VM in dir has it.
func freeUser(user int, dir string) error {
	if !has(user, dir) {
		return nil
	}
	return os.Remove(userLink(user))
}
