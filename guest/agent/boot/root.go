package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/outfit"
	"banger/guest/agent/uevent"
)

// Where the parts of the root are mounted while it is put together.
const (
	imageDir = "/banger/image"
	diskDir  = "/banger/disk"
)

// plainDirs can't be on an overlay, because the programs that use them make overlays
// there. They are on the disk's own file system, if the image has the directory above, and
// begin with what the image has there. Package image/oci knows them, too.
var plainDirs = []string{
	"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers",
	"/var/lib/buildkit", "/var/lib/rancher/k3s",
}

// driveWait bounds the wait for a device to appear after its driver was loaded.
const driveWait = 10 * time.Second

// assembleRoot mounts id's drives as one root and makes it this process's. It
// returns the disk, which is still growing.
func assembleRoot(id guest.Identity, w *stopwatch) (*disk, error) {
	drives, err := findDrives(id.Drives)
	if err != nil {
		return nil, err
	}
	w.lap("find drives")
	if err := mountDrive(drives[id.Drives.Image], imageDir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return nil, err
	}
	// Without noinit_itable a kernel thread would fill every inode table of a grown disk
	// with zeros: megabytes per GiB of a sparse file.
	if err := mountDrive(drives[id.Drives.Disk], diskDir, "ext4", unix.MS_NOATIME, "noinit_itable"); err != nil {
		return nil, err
	}
	w.lap("mount drives")
	grown, err := measureDisk(drives[id.Drives.Disk])
	if err != nil {
		return nil, err
	}
	go grown.grow()
	if err := mountOverlay(); err != nil {
		return nil, err
	}
	w.lap("overlay")
	root, err := unix.Open(newRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	if id.Drives.Modules != "" {
		if err := mountInRoot(root, "lib/modules/"+id.KernelVersion, drives[id.Drives.Modules], "erofs", unix.MS_RDONLY); err != nil {
			return nil, err
		}
	}
	if err := plainDirectories(root); err != nil {
		return nil, err
	}
	// The overlay and the binds keep what they need of these. If they stayed, the disk
	// could not be unmounted at the end.
	for _, dir := range []string{imageDir, diskDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return nil, fmt.Errorf("detach %s: %w", dir, err)
		}
	}
	if err := moveInto(root); err != nil {
		return nil, err
	}
	w.lap("root")
	return grown, nil
}

// placedDrives returns the devices by our serials, for a hypervisor that can't set a
// drive's serial (Firecracker makes its own, User-mode Linux has none): then the kernel's
// command line has the serials in the order of the drives. They are virtio's or UML's.
func placedDrives() map[string]string {
	found := map[string]string{}
	if order := cmdlineValue("banger.drives"); order != "" {
		for i, name := range strings.Split(order, ",") {
			for _, kind := range []string{"vd", "ubd"} {
				dev := fmt.Sprintf("/dev/%s%c", kind, 'a'+i)
				if _, err := os.Stat(dev); err == nil {
					found[name] = dev
				}
			}
		}
	}
	return found
}

// findDrives returns the device of each serial in s, waiting for those that
// aren't there yet.
func findDrives(s guest.DriveSerials) (map[string]string, error) {
	events := uevent.Listen("block")
	defer events.Close()
	for end := time.Now().Add(driveWait); ; events.Wait(uevent.LookAgain) {
		found := placedDrives()
		names, err := filepath.Glob("/sys/block/vd*/serial")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			dev := "/dev/" + filepath.Base(filepath.Dir(n))
			// The kernel makes a device's attributes before its node.
			if _, err := os.Stat(dev); err != nil {
				continue
			}
			if serial, err := os.ReadFile(n); err == nil && len(serial) > 0 {
				found[strings.TrimSpace(string(serial))] = dev
			}
		}
		missing := ""
		for _, serial := range []string{s.Image, s.Modules, s.Disk} {
			if serial != "" && found[serial] == "" {
				missing = serial
			}
		}
		if missing == "" {
			return found, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no drive with serial %q after %v, only %v", missing, driveWait, found)
		}
	}
}

func mountDrive(dev, at, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, at, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s as %s: %w", dev, kind, err)
	}
	return nil
}

// mountOverlay mounts the disk over the image. redirect_dir, index and xino make the
// overlay behave like one file system: directories of the image can be renamed, its hard
// links stay links, and all files have one device number.
func mountOverlay() error {
	upper, work := diskDir+"/upper", diskDir+"/work"
	err := os.Mkdir(upper, 0o755)
	if err == nil {
		err = copyAttributes(imageDir, upper) // the merged root shows the upper one's
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on,index=on,xino=on", imageDir, upper, work)
	if err := unix.Mount("overlay", newRoot, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return err
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777)
}

// disk is the mounted disk, whose file system may be smaller than its device.
type disk struct {
	size  int64 // of the device, in bytes
	want  uint64
	mount *os.File // nil: nothing to grow
}

// measureDisk compares the file system on dev, mounted at diskDir, with dev.
func measureDisk(dev string) (*disk, error) {
	f, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return nil, err
	}
	blockSize, have := superblock(super)
	d := &disk{size: size, want: uint64(size) / blockSize}
	if d.want > have {
		d.mount, err = os.Open(diskDir)
	}
	return d, err
}

// grow grows the file system to its device. Nobody needs to wait for it: it grows by tens
// of GiB a second, faster than any guest can write.
func (d *disk) grow() {
	if d.mount == nil {
		return
	}
	defer d.mount.Close()
	if err := ioctlPointer(int(d.mount.Fd()), ext4Resize, &d.want); err != nil {
		logf("grow disk to %d blocks: %v", d.want, err)
	}
}

// superblock reads an ext4 superblock's block size and number of blocks,
// Documentation/filesystems/ext4/super.rst.
func superblock(b []byte) (blockSize, blocks uint64) {
	blockSize = 1024 << (binary.LittleEndian.Uint32(b[0x18:]) & 15)
	blocks = uint64(binary.LittleEndian.Uint32(b[4:])) | uint64(binary.LittleEndian.Uint32(b[0x150:]))<<32
	return blockSize, blocks
}

// plainDirectories binds the disk's own directories over those that can't live
// on an overlay.
func plainDirectories(root int) error {
	image, err := unix.Open(imageDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(image)
	for _, dir := range plainDirs {
		parent, err := inRoot(root, filepath.Dir(dir))
		if err != nil {
			continue // the image has no such directory
		}
		unix.Close(parent)
		source := filepath.Join(diskDir, "data", filepath.Base(dir))
		from, _ := inRoot(image, dir) // -1 if the image has no such directory
		err = outfit.CopyUp(from, source)
		unix.Close(from)
		if err != nil {
			return fmt.Errorf("copy %s of the image: %w", dir, err)
		}
		if err := mountInRoot(root, dir, source, "", unix.MS_BIND); err != nil {
			logf("%v", err) // odd images may have a file there
		}
	}
	return nil
}

// moveInto moves the kernel's file systems into root, adds those that programs
// expect, frees the initramfs and makes root this process's.
func moveInto(root int) error {
	for _, dir := range []string{"/dev", "/sys", "/run", "/proc"} { // /proc last: mountInRoot needs it
		if err := mountInRoot(root, dir, dir, "", unix.MS_MOVE); err != nil {
			return err
		}
	}
	for _, path := range []string{"/init", moduleDir} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return outfit.Mount()
}

// inRoot opens the directory path below root. As the image isn't trusted, symbolic links
// are resolved as if root were "/".
func inRoot(root int, path string) (int, error) {
	return unix.Openat2(root, strings.TrimPrefix(path, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// makeInRoot is inRoot for a directory that may have to be made, with all above it.
func makeInRoot(root int, path string) (int, error) {
	fd, err := inRoot(root, path)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent := filepath.Dir(strings.TrimPrefix(path, "/"))
	up := root
	if parent != "." {
		if up, err = makeInRoot(root, parent); err != nil {
			return -1, err
		}
		defer unix.Close(up)
		// An O_PATH descriptor is good enough for mkdirat.
	}
	if err := unix.Mkdirat(up, filepath.Base(path), 0o755); err != nil {
		return -1, err
	}
	return inRoot(root, path)
}

// mountInRoot mounts source at path below root, making the directory.
func mountInRoot(root int, path, source, kind string, flags uintptr) error {
	fd, err := makeInRoot(root, path)
	if err != nil {
		return fmt.Errorf("%s in the image: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", fd), kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, path, err)
	}
	return nil
}
