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
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/config"
	"banger/host/person"
)

// ofUser reads what guests get of this user.
func ofUser(conf config.Config) *person.Reader {
	return &person.Reader{Getenv: os.Getenv, Like: conf.LikeHost, Proxy: conf.GuestProxy, CA: conf.GuestCA, Now: time.Now}
}

// minRAMTmpfs is the least size, in bytes, of a tmpfs for guest memory: containers
// often have a /dev/shm of 64 MiB.
const minRAMTmpfs = 1 << 30

const shm = "/dev/shm"

// ramDir returns where guest memory goes: a directory of ours in /dev/shm where that
// is a real tmpfs, else one beside the VMs.
func ramDir(state string) (string, error) {
	if fitForRAM(shm) {
		if dir, err := privateDir(shm); err == nil {
			return dir, nil
		}
	}
	dir := filepath.Join(state, "ram")
	return dir, os.MkdirAll(dir, 0o700)
}

// ramDirs returns the other directories where guest memory may be: an earlier daemon
// may have chosen another one, as its build or /dev/shm was different.
func ramDirs(state, now string) []string {
	all := []string{now, shm, filepath.Join(state, "ram")}
	mine, _ := filepath.Glob(filepath.Join(shm, privateName()+"*")) // the pattern is well-formed
	slices.Sort(mine)
	for _, dir := range mine {
		if isPrivate(dir) == nil {
			all = append(all, dir)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func privateName() string { return fmt.Sprintf("banger-%d", os.Getuid()) }

// privateDir returns a directory of ours in a directory where every user may make
// files. It is an error if another user has taken our names.
func privateDir(in string) (dir string, err error) {
	const names = 16
	for i := range names {
		dir = filepath.Join(in, privateName())
		if i > 0 {
			dir += fmt.Sprintf(".%d", i)
		}
		if err = os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
			err = isPrivate(dir)
		}
		if err == nil {
			return dir, nil
		}
	}
	return "", err
}

// isPrivate returns an error unless dir is a directory of ours that is closed to others.
func isPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s isn't a directory of ours alone: it is %v", dir, info.Mode())
	}
	return nil
}

// fitForRAM reports whether dir is a tmpfs of ours to use and large enough.
func fitForRAM(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC &&
		st.Blocks*uint64(st.Bsize) >= minRAMTmpfs && unix.Access(dir, unix.W_OK) == nil
}

// freeMemory returns a function that says how much memory a new guest could get, in
// MiB: what the kernel says is available, or the room in the tmpfs dir if that is less.
// A hypervisor that writes to a full tmpfs is killed.
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

// newID returns 12 hex digits.
func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// claim writes owner into the file at path if there is none, and reports whether the
// file names owner.
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

// sibling returns the path of a program of ours in the directory of this one.
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
