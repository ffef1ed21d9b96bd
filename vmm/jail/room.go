package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The root is built with the kernel's calls for mounts that aren't anywhere yet
// (open_tree(2), fsmount(2)): a daemon that is root can make such a mount of a file
// that the jail's user couldn't reach by its path, and hand it over. And nothing is ever mounted
// where the host could see it.

// room is the root of a jail that is being made.
type room struct {
	root   int // descriptor of the mount that becomes it
	inside map[string]*net.UnixListener
}

// tree returns a mount of the file, read-only if it isn't to be written.
func (f File) tree() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, f.Host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "open_tree", Path: f.Host, Err: err}
	}
	tree := os.NewFile(uintptr(fd), f.Host)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		case unix.S_IFBLK, unix.S_IFCHR:
		default:
			err = errors.New("neither a regular file nor a device")
		}
		if !f.Writable {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err == nil {
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
		}
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "mount", Path: f.Host, Err: err}, tree.Close())
	}
	return tree, nil
}

// tmpfs returns a new one, which isn't mounted anywhere yet.
func tmpfs(bytes int64, inodes int) (fd int, err error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(ctx)
	for key, value := range map[string]string{"size": strconv.FormatInt(bytes, 10), "nr_inodes": strconv.Itoa(inodes), "mode": "0700"} {
		if err := unix.FsconfigSetString(ctx, key, value); err != nil {
			return -1, fmt.Errorf("tmpfs with %s=%s: %w", key, value, err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err = unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	return fd, os.NewSyscallError("fsmount", err)
}

// attach mounts what a descriptor stands for.
func attach(fd int, at string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

const (
	rootBytes     = 1 << 20 // the root has empty files only, on which others are mounted
	rootInodes    = 256
	scratchInodes = 1024
)

// build makes the root above the host's, and the process's working directory. Trees
// are the mounts of s.Files, if they were handed over.
func (r *room) build(s Spec, trees []*os.File) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if r.root, err = tmpfs(rootBytes, rootInodes); err != nil {
		return err
	}
	if err := attach(r.root, "/"); err != nil {
		return err
	}
	if err := unix.Fchdir(r.root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if s.Limits.Scratch > 0 {
		scratch, err := tmpfs(s.Limits.Scratch, scratchInodes)
		if err == nil {
			err = os.Mkdir("tmp", 0o700)
		}
		if err == nil {
			err = attach(scratch, "tmp")
		}
		if err = errors.Join(err, unix.Close(scratch)); err != nil {
			return fmt.Errorf("/tmp in the jail: %w", err)
		}
	}
	for i, f := range s.Files {
		var tree *os.File
		if i < len(trees) {
			tree = trees[i]
		} else if tree, err = f.tree(); err != nil {
			return err
		}
		at, err := place(f.At)
		if err == nil {
			err = os.WriteFile(at, nil, 0o600)
		}
		if err == nil {
			err = attach(int(tree.Fd()), at)
		}
		if err = errors.Join(err, tree.Close()); err != nil {
			return fmt.Errorf("%s in the jail: %w", f.At, err)
		}
	}
	return r.listenInside(s.Inside)
}

func (r *room) listenInside(paths []string) error {
	r.inside = map[string]*net.UnixListener{}
	for _, path := range paths {
		at, err := place(path)
		if err == nil {
			r.inside[path], err = net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
		}
		if err != nil {
			return fmt.Errorf("socket %s in the jail: %w", path, err)
		}
		r.inside[path].SetUnlinkOnClose(false)
	}
	return nil
}

// place makes the directories above a path of the jail, and returns the path seen from
// its root, which is our working directory.
func place(path string) (string, error) {
	at := strings.TrimPrefix(path, "/")
	return at, os.MkdirAll(filepath.Dir(at), 0o700)
}

// enter makes the room the root of all processes that are in this mount namespace, and
// removes the host's.
func (r *room) enter() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	// The old root lies above the new one now, see pivot_root(2).
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.MountSetattr(r.root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the jail's root read-only: %w", err)
	}
	return os.NewSyscallError("close", unix.Close(r.root))
}
