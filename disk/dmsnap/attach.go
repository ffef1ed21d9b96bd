package dmsnap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// How long to wait for a busy device or for a loop to be cleared, and how often to look:
// udev and others open devices for a moment.
const (
	patience = 5 * time.Second
	interval = 20 * time.Millisecond
)

// disk is the pair of open files of one disk.
type disk struct {
	base, cow *os.File
	sizeMiB   int
}

func (k disk) sectors() uint64 { return uint64(k.sizeMiB) * mib / 512 }

func (k disk) close() { _ = k.base.Close(); _ = k.cow.Close() }

func openDisk(dir string) (k disk, err error) {
	if k.cow, err = openCOW(dir); err != nil {
		return k, err
	}
	k.base, err = os.OpenFile(filepath.Join(dir, nameBase), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		_ = k.cow.Close()
		return k, banger.Errorf(banger.CodeNotFound, "the disk in %s lacks its base: %w", dir, err)
	} else if err != nil {
		_ = k.cow.Close()
		return k, fmt.Errorf("base of the disk: %w", err)
	}
	if k.sizeMiB, err = sizeOf(k.cow); err != nil {
		k.close()
	}
	return k, err
}

// Attach makes the device of a VM's disk, or finds it.
func (d *Disks) Attach(ctx context.Context, id, dir string) (string, banger.Handles, error) {
	h, err := d.attach(ctx, id, dir)
	if err != nil {
		return "", banger.Handles{}, err
	}
	return h.DMDev, h, nil
}

func (d *Disks) attach(ctx context.Context, id, dir string) (none banger.Handles, err error) {
	if !banger.IsID(id) {
		return none, banger.Errorf(banger.CodeInvalid, "%q is no VM's id", id)
	}
	k, err := openDisk(dir)
	if err != nil {
		return none, err
	}
	defer k.close()
	m, err := openMapper()
	if err != nil {
		return none, err
	}
	defer m.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return none, err
	}
	dev, there, err := m.find(d.mark(id))
	if err != nil {
		return none, err
	}
	if there {
		h, right, err := d.recognise(m, dev, k)
		if err != nil || right {
			return h, err
		}
		// A daemon that died has made half of it, or the disk has grown since.
		if err := m.remove(dev.uuid); err != nil {
			return none, banger.Errorf(banger.CodeConflict, "the device %s of the disk in %s isn't as it should be and is in use: %w", dev.name, dir, err).
				WithHint("end the program that uses it, then try again; `dmsetup table %s` shows the device", dev.name)
		}
	}
	if err := d.alone(ctx, id, k.cow); err != nil {
		return none, err
	}
	if _, err := mend(k.cow); err != nil {
		return none, err
	}
	return d.join(m, id, k)
}

// recognise reports whether a device of ours is right for a disk: an active snapshot, on
// loops on the disk's own files, and of the disk's size, or smaller while it is in use.
func (d *Disks) recognise(m mapper, dev device, k disk) (h banger.Handles, right bool, err error) {
	if !dev.active {
		return h, false, nil
	}
	target, sectors, on, err := m.table(dev.uuid)
	if err != nil || target != snapshotTarget {
		return h, false, err
	}
	h = banger.Handles{DMName: dev.name, DMDev: dev.node()}
	for _, rdev := range on {
		l, err := loopAt(rdev)
		if err != nil {
			return h, false, nil
		}
		switch {
		case l.on(k.cow) && !l.readOnly():
			h.COWLoop = l.Name()
		case l.on(k.base) && l.readOnly():
			h.BaseLoop = l.Name()
		}
		_ = l.Close()
	}
	right = h.COWLoop != "" && h.BaseLoop != "" && (sectors == k.sectors() || sectors < k.sectors() && dev.open)
	return h, right, nil
}

// alone waits until no loop of ours is on the disk. A loop of somebody else's is
// CodeConflict.
func (d *Disks) alone(ctx context.Context, id string, cow *os.File) error {
	return d.wait(ctx, func() error {
		ours, strangers, err := d.others(id, cow)
		switch {
		case err != nil:
			return err
		case len(strangers) > 0:
			return banger.Errorf(banger.CodeConflict, "%s is a loop device on the disk %s that banger didn't make", strangers[0], cow.Name()).
				WithHint("detach it: losetup -d %s", strangers[0])
		case len(ours) > 0:
			return busy{banger.Errorf(banger.CodeUnavailable, "%s is in use", ours[0])}
		}
		return nil
	})
}

// join makes the loops and the device on them. It closes the loops in any case: the
// device, once made, has them open itself.
func (d *Disks) join(m mapper, id string, k disk) (none banger.Handles, err error) {
	base, err := d.shared(k.base)
	if err != nil {
		return none, err
	}
	defer base.Close()
	cow, err := bind(k.cow, false, d.mark(id))
	if err != nil {
		return none, err
	}
	defer cow.Close()
	dev, err := m.make(markPrefix+id, d.mark(id), k.sectors(), base.rdev, cow.rdev)
	if err != nil {
		return none, err
	}
	// devtmpfs makes the node together with the device; in a container there may be none.
	var st unix.Stat_t
	if err := unix.Stat(dev.node(), &st); err != nil || st.Rdev != dev.dev {
		return none, errors.Join(banger.Errorf(banger.CodeUnavailable, "there is no node %s for the device %s: %v", dev.node(), dev.name, err).
			WithHint("/dev must be a devtmpfs"), m.remove(dev.uuid))
	}
	return banger.Handles{BaseLoop: base.Name(), COWLoop: cow.Name(), DMName: dev.name, DMDev: dev.node()}, nil
}

// Detach removes the device and waits until its loop is cleared. The base's loop is
// cleared with its last user.
func (d *Disks) Detach(ctx context.Context, id, _ string, held banger.Handles) (banger.Handles, error) {
	held = held.Of(banger.DiskHandles)
	if !banger.IsID(id) {
		return held, banger.Errorf(banger.CodeInvalid, "%q is no VM's id", id)
	}
	if err := d.removeDevice(ctx, id); err != nil {
		return held, err
	}
	left := banger.Handles{}
	err := d.wait(ctx, func() error {
		left = banger.Handles{}
		ours, _, err := d.others(id, nil)
		if err != nil {
			left.COWLoop = held.COWLoop
			return err
		}
		if len(ours) > 0 {
			left.COWLoop = ours[0]
			return busy{banger.Errorf(banger.CodeUnavailable, "%s is still in use", ours[0])}
		}
		return nil
	})
	return left, err
}

func (d *Disks) removeDevice(ctx context.Context, id string) error {
	m, err := openMapper()
	if errors.Is(err, errNoMapper) {
		return nil // without device-mapper there is no device
	}
	if err != nil {
		return err
	}
	defer m.Close()
	return d.wait(ctx, func() error {
		err := m.remove(d.mark(id))
		if errors.Is(err, unix.EBUSY) {
			return busy{banger.Errorf(banger.CodeUnavailable, "the device %s is busy", markPrefix+id).
				WithHint("end the program that has it open: fuser -v /dev/mapper/%s; removing it is tried again", markPrefix+id)}
		}
		return err
	})
}

// busy is an error that may go away by itself.
type busy struct{ error }

func (b busy) Unwrap() error { return b.error }

// wait calls try again while its error is busy, at most for patience.
func (d *Disks) wait(ctx context.Context, try func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		err := try()
		b, passing := errors.AsType[busy](err)
		if !passing {
			return err
		}
		if time.Now().After(end) {
			return b.error
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), b.error)
		case <-tick.C:
		}
	}
}
