package dmsnap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger"
)

// mapper is device-mapper's control node (include/uapi/linux/dm-ioctl.h). Every request
// that changes a device names it by UUID, as somebody else's device may have the same
// name.
type mapper struct{ *os.File }

// errNoMapper means that this kernel has no device-mapper, and so no devices.
var errNoMapper = errors.New("this kernel has no device-mapper")

func openMapper() (mapper, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return mapper{}, banger.Errorf(banger.CodeUnavailable, "%w: %w", errNoMapper, err).
			WithHint("load its module: modprobe dm_snapshot; or set disk_driver to file in config.toml")
	}
	if err != nil {
		return mapper{}, fmt.Errorf("device-mapper: %w", err)
	}
	return mapper{f}, nil
}

// device is what the kernel says about a device.
type device struct {
	name, uuid string
	dev        uint64 // device number
	active     bool   // it has an active table
	open       bool   // somebody has it open
}

func (d device) node() string { return fmt.Sprintf("/dev/dm-%d", unix.Minor(d.dev)) }

// bufferSize is more than any answer about one device needs, in bytes.
const bufferSize = 16 << 10

// quiet is the high half of an event number. It tells udev's rules for device-mapper
// (libdevmapper.h, DM_UDEV_*) to leave a device alone: udev must not look for filesystems
// in what a guest wrote, make links on the host by labels that the guest chose, or keep
// the device busy when it is to be removed.
const quiet = (0x02 | 0x04 | 0x08 | 0x40) << 16 // no rules of subsystems, disks or others; 0x40 is DM_UDEV_PRIMARY_SOURCE_FLAG

// call makes one request. data follows the header; call returns what the kernel puts
// there.
func (m mapper) call(request uint, h *unix.DmIoctl, data []byte) ([]byte, error) {
	for size := bufferSize; ; size *= 4 {
		buf := make([]uint64, (size+len(data))/8) // aligned
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), len(buf)*8)
		at := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
		*at = *h
		at.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
		at.Data_size, at.Data_start = uint32(len(raw)), unix.SizeofDmIoctl
		copy(raw[unix.SizeofDmIoctl:], data)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.Fd(), uintptr(request), uintptr(unsafe.Pointer(at)))
		if errno != 0 {
			return nil, errno
		}
		if at.Flags&unix.DM_BUFFER_FULL_FLAG != 0 && size < 64<<20 {
			continue
		}
		*h = *at
		end := min(int(at.Data_size), len(raw))
		return raw[min(int(at.Data_start), end):end], nil // without data, the answer ends within the padding of the header
	}
}

func byUUID(uuid string) *unix.DmIoctl {
	h := &unix.DmIoctl{}
	copy(h.Uuid[:len(h.Uuid)-1], uuid)
	return h
}

func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func read(h *unix.DmIoctl) device {
	return device{
		name: text(h.Name[:]), uuid: text(h.Uuid[:]), dev: h.Dev,
		active: h.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0 && h.Flags&unix.DM_SUSPEND_FLAG == 0, open: h.Open_count > 0,
	}
}

// find looks a device up.
func (m mapper) find(uuid string) (d device, there bool, err error) {
	h := byUUID(uuid)
	if _, err := m.call(unix.DM_DEV_STATUS, h, nil); errors.Is(err, unix.ENXIO) {
		return d, false, nil
	} else if err != nil {
		return d, false, fmt.Errorf("device-mapper: status of %s: %w", uuid, err)
	}
	return read(h), true, nil
}

// table returns the kind of a device's only target, its length in sectors, and the
// devices it is on. Our devices never have several targets.
func (m mapper) table(uuid string) (target string, sectors uint64, on []uint64, err error) {
	h := byUUID(uuid)
	h.Flags = unix.DM_STATUS_TABLE_FLAG
	data, err := m.call(unix.DM_TABLE_STATUS, h, nil)
	if err != nil {
		return "", 0, nil, fmt.Errorf("device-mapper: table of %s: %w", uuid, err)
	}
	var spec unix.DmTargetSpec
	if h.Target_count != 1 || binary.Read(bytes.NewReader(data), binary.NativeEndian, &spec) != nil {
		return "", 0, nil, nil
	}
	h = byUUID(uuid)
	if data, err = m.call(unix.DM_TABLE_DEPS, h, nil); err != nil {
		return "", 0, nil, fmt.Errorf("device-mapper: what %s is on: %w", uuid, err)
	}
	const head = 8 // struct dm_target_deps: count, padding, device numbers
	for n := 0; len(data) >= head && n < int(binary.NativeEndian.Uint32(data)) && head+8*n+8 <= len(data); n++ {
		on = append(on, binary.NativeEndian.Uint64(data[head+8*n:]))
	}
	return text(spec.Target_type[:]), spec.Length, on, nil
}

// make makes a snapshot. On error nothing of it is left.
func (m mapper) make(name, uuid string, sectors uint64, origin, cow uint64) (d device, err error) {
	h := byUUID(uuid)
	copy(h.Name[:len(h.Name)-1], name)
	if _, err := m.call(unix.DM_DEV_CREATE, h, nil); errors.Is(err, unix.EBUSY) {
		return d, banger.Errorf(banger.CodeConflict, "there is a device-mapper device %s that banger didn't make", name).
			WithHint("remove it: dmsetup remove %s", name)
	} else if err != nil {
		return d, fmt.Errorf("device-mapper: create %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.remove(uuid))
		}
	}()
	params := fmt.Sprintf("%d:%d %d:%d P %d\x00", unix.Major(origin), unix.Minor(origin), unix.Major(cow), unix.Minor(cow), chunkSectors)
	spec := unix.DmTargetSpec{Length: sectors}
	copy(spec.Target_type[:], snapshotTarget)
	data, err := binary.Append(nil, binary.NativeEndian, spec)
	if err != nil {
		return d, err
	}
	data = append(data, params...)
	data = append(data, make([]byte, (8-len(data)%8)%8)...)
	h = byUUID(uuid)
	h.Target_count = 1
	if _, err := m.call(unix.DM_TABLE_LOAD, h, data); errors.Is(err, unix.EINVAL) {
		return d, banger.Errorf(banger.CodeUnavailable, "device-mapper refuses a snapshot: %w", err).
			WithHint("load its module: modprobe dm_snapshot; `dmesg` says more")
	} else if err != nil {
		return d, fmt.Errorf("device-mapper: load the table of %s: %w", name, err)
	}
	h = byUUID(uuid)
	h.Event_nr = quiet
	if _, err := m.call(unix.DM_DEV_SUSPEND, h, nil); err != nil { // without DM_SUSPEND_FLAG it resumes
		return d, fmt.Errorf("device-mapper: resume %s: %w", name, err)
	}
	return read(h), nil
}

const snapshotTarget = "snapshot"

// remove removes a device; EBUSY while somebody has it open. It is no error if there is
// none.
func (m mapper) remove(uuid string) error {
	h := byUUID(uuid)
	h.Event_nr = quiet
	if _, err := m.call(unix.DM_DEV_REMOVE, h, nil); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("device-mapper: remove %s: %w", uuid, err)
	}
	return nil
}

// list returns all devices.
func (m mapper) list() ([]device, error) {
	data, err := m.call(unix.DM_LIST_DEVICES, &unix.DmIoctl{}, nil)
	if err != nil {
		return nil, fmt.Errorf("device-mapper: list devices: %w", err)
	}
	var all []device
	for len(data) > 12 { // struct dm_name_list: device number, offset of the next, name
		dev, next := binary.NativeEndian.Uint64(data), int(binary.NativeEndian.Uint32(data[8:]))
		if dev == 0 {
			break // there is none
		}
		h := &unix.DmIoctl{}
		copy(h.Name[:len(h.Name)-1], text(data[12:]))
		if _, err := m.call(unix.DM_DEV_STATUS, h, nil); err == nil { // else it was removed meanwhile
			all = append(all, read(h))
		}
		if next < 12 || next > len(data) {
			break
		}
		data = data[next:]
	}
	return all, nil
}
