package hostfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Scratch makes a directory below parent for files that are needed for as long as this
// process works on them. It also removes such directories of processes that have died: a
// live process keeps its own locked.
func Scratch(ctx context.Context, parent string) (dir string, remove func(), err error) {
	stale, _ := filepath.Glob(filepath.Join(parent, "banger-git-*")) // the pattern is well-formed
	for _, s := range stale {
		sweep(s)
	}
	for range 10 {
		dir, err := os.MkdirTemp(parent, "banger-git-*")
		if err != nil {
			return "", nil, err
		}
		f, err := locked(dir, func(d *os.File) error { return Lock(ctx, d) })
		if errors.Is(err, os.ErrNotExist) {
			continue // another process removed it before we locked it
		}
		if err != nil {
			return "", nil, err
		}
		return dir, func() { _ = os.RemoveAll(dir); f.Close() }, nil
	}
	return "", nil, fmt.Errorf("directories in %s are removed as soon as they are made", parent)
}

// sweep removes a directory of ours that no process has locked.
func sweep(dir string) {
	f, err := locked(dir, TryLock)
	if err != nil {
		return // in use, somebody else's, or gone: not ours to remove
	}
	defer f.Close()
	_ = os.RemoveAll(dir) // the next call tries again what could not be removed
}

// locked opens a directory of this user and locks it. os.ErrNotExist says that
// it isn't there any more.
func locked(dir string, lock func(*os.File) error) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != uint32(os.Geteuid()) {
		f.Close()
		return nil, errors.Join(err, os.ErrPermission)
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !Named(f, dir) { // whoever held the lock before may have removed it
		return nil, errors.Join(os.ErrNotExist, f.Close())
	}
	return f, nil
}
