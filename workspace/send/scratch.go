package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratch makes a directory for what git can only write to a path, and removes
// those of processes that died with theirs: a live one keeps its own locked.
func scratch(parent string) (dir string, remove func(), err error) {
	stale, _ := filepath.Glob(filepath.Join(parent, "banger-git-*")) // the pattern is well-formed
	for _, s := range stale {
		sweep(s)
	}
	for range 10 {
		dir, err := os.MkdirTemp(parent, "banger-git-*")
		if err != nil {
			return "", nil, err
		}
		f, err := locked(dir, unix.LOCK_EX)
		if errors.Is(err, os.ErrNotExist) {
			continue // swept before it was locked
		}
		if err != nil {
			return "", nil, err
		}
		return dir, func() { _ = os.RemoveAll(dir); f.Close() }, nil
	}
	return "", nil, fmt.Errorf("directories in %s vanish as they are made", parent)
}

// sweep removes a directory of ours that nobody holds.
func sweep(dir string) {
	f, err := locked(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return // in use, somebody else's, or gone: not ours to remove
	}
	defer f.Close()
	_ = os.RemoveAll(dir) // what stays is tried again next time
}

// locked opens a directory of this user and locks it. os.ErrNotExist says that
// it isn't there any more.
func locked(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != uint32(os.Geteuid()) {
		f.Close()
		return nil, errors.Join(err, os.ErrPermission)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, err
	}
	// Whoever held the lock before may have removed it.
	var now unix.Stat_t
	if err := unix.Lstat(dir, &now); err != nil || now.Ino != st.Ino || now.Dev != st.Dev {
		f.Close()
		return nil, errors.Join(err, os.ErrNotExist)
	}
	return f, nil
}
