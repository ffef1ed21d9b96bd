package hostfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process, or another open file of this one, has the lock.
var ErrLocked = errors.New("it is locked by another")

// lockPause is the time between two tries to get a lock. A blocking flock(2) can't be
// ended by a context.
const lockPause = 5 * time.Millisecond

// TryLock takes the exclusive lock of an open file or directory (flock(2)), against
// other processes and against other open files of this one. The lock ends when the
// file is closed or the process dies. ErrLocked when another has it.
func TryLock(f *os.File) error { return flock(f, unix.LOCK_EX) }

// Lock is TryLock that waits until ctx ends.
func Lock(ctx context.Context, f *os.File) error { return wait(ctx, f, unix.LOCK_EX) }

// Share takes a lock that many may have at once, but none beside an exclusive one,
// and waits for it until ctx ends.
func Share(ctx context.Context, f *os.File) error { return wait(ctx, f, unix.LOCK_SH) }

// OpenLocked opens a lock file, makes it (mode 0600) when it is missing, and locks it
// as Lock does. Close ends the lock.
func OpenLocked(ctx context.Context, path string) (*os.File, error) {
	return open(path, func(f *os.File) error { return Lock(ctx, f) })
}

// TryOpenLocked is OpenLocked that doesn't wait: ErrLocked when another has the lock.
func TryOpenLocked(path string) (*os.File, error) { return open(path, TryLock) }

func open(path string, lock func(*os.File) error) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Named reports whether path still names the open file f. Ask after waiting for a
// lock: whoever had it may have removed or renamed the file.
func Named(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(open, named)
}

func wait(ctx context.Context, f *os.File, how int) error {
	for {
		err := flock(f, how)
		if !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock of %s: %w", f.Name(), context.Cause(ctx))
		case <-time.After(lockPause):
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
