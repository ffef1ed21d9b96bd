package jail

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
	"banger/vmm/uid"
)

const trialName = "banger-jail-"

// A trial of a jail has a directory among the host's temporary files, as it must be one that
// only walls keep the jail from. It is locked until the trial is over, so that what a killed
// trial left is known by its free lock.

// openTrial makes the directory. Over removes it.
func openTrial() (dir string, over func(), err error) {
	for {
		if dir, err = os.MkdirTemp("", trialName); err != nil {
			return "", nil, err
		}
		lock, err := lockTrial(dir)
		if err == nil {
			return dir, func() { _ = removeTrial(dir); _ = lock.Close() }, nil
		}
		if !errors.Is(err, hostfs.ErrLocked) && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, errors.Join(err, os.Remove(dir))
		} // else somebody took it for a left one before it was locked
	}
}

// lockTrial locks a directory, which is still there then.
func lockTrial(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = hostfs.TryLock(f)
	if err == nil {
		var there, locked os.FileInfo
		if there, err = os.Lstat(dir); err == nil {
			locked, err = f.Stat()
		}
		if err == nil && !os.SameFile(there, locked) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeTrial gives the trial's user back, too.
func removeTrial(dir string) error {
	id := filepath.Base(dir)
	return errors.Join(uid.Free(uid.Of(id, dir), dir), os.RemoveAll(dir))
}

// Trials are this user's directories of trials. They implement banger.KernelObjects, and
// are no VM's.
type Trials struct{}

// Objects implements banger.KernelObjects.
func (Trials) Objects(context.Context) ([]banger.Found, error) {
	var list []banger.Found
	return list, eachTrial(func(dir string, locked error) error {
		f := banger.Found{Kind: "trial", Name: dir}
		if locked != nil {
			f.Claim, f.Detail = banger.Foreign, "kept: a jail is being tried in it"
		}
		list = append(list, f)
		return nil
	})
}

// RemoveObjects implements banger.KernelObjects: it removes the directories of all trials that are over.
func (Trials) RemoveObjects(context.Context, string) error {
	return eachTrial(func(dir string, locked error) error {
		if locked != nil {
			return nil
		}
		return removeTrial(dir)
	})
}

// eachTrial calls do for each directory, with its lock or why it can't be had.
func eachTrial(do func(dir string, locked error) error) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), trialName+"*"))
	for _, dir := range dirs {
		info, serr := os.Lstat(dir)
		if serr != nil || !info.IsDir() {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() {
			continue
		}
		lock, locked := lockTrial(dir)
		if errors.Is(locked, fs.ErrNotExist) {
			continue
		}
		err = errors.Join(err, do(dir, locked))
		if locked == nil {
			_ = lock.Close()
		}
	}
	return err
}
