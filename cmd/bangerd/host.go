package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// minRAMTmpfs is the size from which a tmpfs is worth using for guest memory:
// containers often have a /dev/shm of 64 MiB.
const minRAMTmpfs = 1 << 30

// ramDir returns where guest memory goes: /dev/shm where that is a real tmpfs,
// else a directory beside the VMs.
func ramDir(state string) (string, error) {
	const shm = "/dev/shm"
	if fitForRAM(shm) {
		return shm, nil
	}
	dir := filepath.Join(state, "ram")
	return dir, os.MkdirAll(dir, 0o700)
}

// fitForRAM reports whether dir is a tmpfs of ours to use and large enough.
func fitForRAM(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC &&
		st.Blocks*uint64(st.Bsize) >= minRAMTmpfs && unix.Access(dir, unix.W_OK) == nil
}

// freeMemory returns a function that says how much memory a new guest could
// get, in MiB: what the kernel says is available, and what fits where it goes.
// A tmpfs without room would kill the hypervisor in the middle of its work.
func freeMemory(dir string) func() int {
	return func() int {
		mib := available()
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil {
			mib = min(mib, int(st.Bavail*uint64(st.Bsize)>>20))
		}
		return mib
	}
}

// available reads MemAvailable (proc_meminfo(5)).
func available() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(sc.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	return 0
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// newID returns 12 hex digits.
func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// claim writes owner into the file at path unless somebody did before, and
// reports whether owner is what it says.
func claim(path, owner string) (bool, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.WriteString(owner)
		return err == nil, errors.Join(err, f.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	who, err := os.ReadFile(path)
	return string(who) == owner, err
}

// sibling returns a program of ours that lies beside this one.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if err := unix.Access(path, unix.X_OK); err != nil {
		return "", fmt.Errorf("%s belongs beside bangerd: %w", path, err)
	}
	return path, nil
}
