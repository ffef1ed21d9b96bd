package dmsnap

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"banger"
)

// Objects lists device-mapper devices and loops under our names, and loops that
// somebody else put on our files.
func (d *Disks) Objects(context.Context) ([]banger.Found, error) {
	list, err := d.devices()
	if err != nil {
		return nil, err
	}
	err = loops(func(l *loop) bool {
		f := banger.Found{Kind: "loop", Name: l.Name()}
		id, owner, ok := parseMark(l.label)
		switch {
		case ok && owner != d.owner():
			f.VM, f.Claim, f.Detail = id, banger.Foreign, "of another state directory"
		case ok && id == baseID:
			f.Claim = banger.Owned // the kernel clears it with the last disk on it
		case ok:
			f.VM = id
		case strings.HasPrefix(backing(l), filepath.Clean(d.Owner)+"/"):
			f.Claim, f.Detail = banger.Foreign, "made by somebody else, on "+backing(l)
		default:
			return true
		}
		list = append(list, f)
		return true
	})
	return list, err
}

func (d *Disks) devices() (list []banger.Found, err error) {
	m, err := openMapper()
	if errors.Is(err, errNoMapper) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	all, err := m.list()
	for _, dev := range all {
		id, owner, ok := parseMark(dev.uuid)
		if !ok && !strings.HasPrefix(dev.name, markPrefix) && !strings.HasPrefix(dev.uuid, markPrefix) {
			continue
		}
		f := banger.Found{Kind: "dm", Name: dev.name, VM: id}
		switch {
		case !ok || id == baseID:
			f.Claim, f.VM, f.Detail = banger.Foreign, "", "not a device of banger's"
		case owner != d.owner():
			f.Claim, f.Detail = banger.Foreign, "of another state directory"
		}
		list = append(list, f)
	}
	return list, err
}

// RemoveObjects removes a VM's device, and with it its loop.
func (d *Disks) RemoveObjects(ctx context.Context, id string) error {
	_, err := d.Detach(ctx, id, "", banger.Handles{})
	return err
}
