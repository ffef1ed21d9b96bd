package dmsnap

import (
	"os"

	"golang.org/x/sys/unix"
)

// Deaths of a daemon in the middle of Attach, by how far it came.
const (
	DiedWithCreate = iota + 1 // the device has no table
	DiedWithTable             // and none that is in force
)

// Die makes what an Attach that died there left.
func (d *Disks) Die(id, dir string, at int) error {
	k, err := openDisk(dir)
	if err != nil {
		return err
	}
	defer k.close()
	m, err := openMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	base, err := d.shared(k.base)
	if err != nil {
		return err
	}
	defer base.Close()
	cow, err := bind(k.cow, false, d.mark(id))
	if err != nil {
		return err
	}
	defer cow.Close()
	if _, err := m.make(markPrefix+id, d.mark(id), k.sectors(), base.rdev, cow.rdev); err != nil {
		return err
	}
	if at == DiedWithTable { // not in force any more is as good as not yet
		h := byUUID(d.mark(id))
		h.Flags = unix.DM_SUSPEND_FLAG
		_, err := m.call(unix.DM_DEV_SUSPEND, h, nil)
		return err
	}
	// A device without a table, in the place of the whole one.
	if err := m.remove(d.mark(id)); err != nil {
		return err
	}
	h := byUUID(d.mark(id))
	copy(h.Name[:], markPrefix+id)
	_, err = m.call(unix.DM_DEV_CREATE, h, nil)
	return err
}

// Mark is what marks a VM's devices as ours.
func (d *Disks) Mark(id string) string { return d.mark(id) }

// CowSize is cowSize.
func CowSize(sizeMiB int) int64 { return cowSize(sizeMiB) }

// Mend is mend.
func Mend(f *os.File) (bool, error) { return mend(f) }

// Bind puts a loop of a label on a file and returns its path and what lets it go.
func Bind(f *os.File, label string) (path string, release func() error, err error) {
	l, err := bind(f, false, label)
	if err != nil {
		return "", nil, err
	}
	return l.Name(), l.Close, nil
}

// Loops returns the paths of loops with a label.
func Loops(label string) (paths []string, err error) {
	err = loops(func(l *loop) bool {
		if l.label == label {
			paths = append(paths, l.Name())
		}
		return true
	})
	return paths, err
}
