package engine

import (
	"context"
	"fmt"

	"banger"
)

// What a running VM has of its host besides its VMM: an attached disk, and a
// link to a network that is the host's.

// Drivers are those of what a VM has of its host beside its VMM.
type Drivers struct {
	Disks    map[string]banger.Disks            // by driver name
	Networks map[banger.NetMode]banger.Networks // of modes that need something of the host
}

// disk returns the driver of a VM's disk.
func (d Drivers) disk(vm banger.VM) (banger.Disks, error) {
	name := vm.Spec.DiskDriver
	if name == "" {
		name = "file" // a VM of before there was a choice
	}
	if disks := d.Disks[name]; disks != nil {
		return disks, nil
	}
	return nil, banger.Errorf(banger.CodeInvalid, "there is no disk driver %q for this daemon", name).
		WithHint("dm-snapshot needs a daemon that runs as root; file works without")
}

// attach makes the VM's disk, of the size recorded, ready for a VMM.
func attach(ctx context.Context, e *Engine, vm banger.VM) (path string, h banger.Handles, err error) {
	disks, err := e.Host.disk(vm)
	if err != nil {
		return "", h, err
	}
	return disks.Attach(ctx, vm.ID, e.dir(vm.ID))
}

// mode returns what a network mode needs of the host: nil without an error, if
// nothing.
func (d Drivers) mode(m banger.NetMode) (banger.Networks, error) {
	switch n := d.Networks[m]; {
	case n != nil || m == banger.NetUser || m == banger.NetNone:
		return n, nil
	case m == banger.NetBridge:
		return nil, banger.Errorf(banger.CodeInvalid, "the network mode %q isn't available to this daemon", m).
			WithHint("it needs a daemon that runs as root; user works without")
	default:
		return nil, banger.Errorf(banger.CodeInvalid, "there is no network mode %q", m).WithHint("use user, bridge or none")
	}
}

func attachment(j *job) move {
	return move{
		name: "attach",
		do: func(ctx context.Context) error {
			disks, err := j.e.Host.disk(j.vm)
			if err == nil { // what SetVM asked for since the last start
				err = disks.Grow(ctx, j.e.dir(j.vm.ID), j.vm.Spec.DiskMiB)
			}
			if err != nil {
				return err
			}
			_, h, err := attach(ctx, j.e, j.vm)
			return acquire(j, banger.DiskHandles, h, err)
		},
		undo: func(ctx context.Context) error {
			disks, err := j.e.Host.disk(j.vm)
			if err != nil {
				return err
			}
			left, err := disks.Detach(ctx, j.vm.ID, j.e.dir(j.vm.ID), j.held().Of(banger.DiskHandles))
			return release(j, banger.DiskHandles, left, err)
		},
	}
}

func linked(j *job) move {
	return move{
		name: "network",
		do: func(ctx context.Context) error {
			n, err := j.e.Host.mode(j.vm.Spec.Net)
			if n == nil {
				return err
			}
			h, err := n.Set(ctx, banger.Link{VM: j.vm.ID, Net: network(j.vm)})
			return acquire(j, banger.NetHandles, h, err)
		},
		undo: func(ctx context.Context) error {
			n := j.e.Host.Networks[j.vm.Spec.Net]
			if n == nil && j.held().Of(banger.NetHandles).Empty() {
				return nil
			}
			if n == nil {
				return banger.Errorf(banger.CodeUnavailable, "%s can't be removed by this daemon", j.held().Tap).
					WithHint("run it as root, as the one that made it")
			}
			left, err := n.CleanUp(ctx, j.vm.ID, j.held().Of(banger.NetHandles))
			return release(j, banger.NetHandles, left, err)
		},
	}
}

// acquire notes what a driver made. Of what it made on its way to an error its
// undo will know.
func acquire(j *job, s banger.Share, h banger.Handles, err error) error {
	if h = j.held().With(s, h); err == nil && h != j.held() {
		j.hold(h)
	}
	return err
}

// release notes what a driver's undo left: that is still ours, whatever the
// error says. The scratch file follows at the end: what it has too much is
// looked for in vain.
func release(j *job, s banger.Share, left banger.Handles, err error) error {
	h := j.held().With(s, left)
	if j.e.keep(j.r, h); h.Empty() || err != nil {
		j.hold(h)
	}
	if left = left.Of(s); err == nil && !left.Empty() {
		err = banger.Errorf(banger.CodeUnavailable, "not all of it is gone: %+v", left)
	}
	return err
}

// again finds what a running VM has of its host, and mends what of its network
// somebody took away. What can't be had now doesn't end a VM that runs.
func again(ctx context.Context, j *job, h banger.Handles) banger.Handles {
	_, disk, err := attach(ctx, j.e, j.vm)
	if err == nil {
		h = h.With(banger.DiskHandles, disk)
	} else {
		j.e.Log.Warn("the disk of a running VM was not found again", "vm", j.vm.ID, "error", err)
	}
	n := j.e.Host.Networks[j.vm.Spec.Net]
	if n == nil {
		return h
	}
	link, err := n.Set(ctx, banger.Link{VM: j.vm.ID, Net: network(j.vm)})
	if err == nil {
		return h.With(banger.NetHandles, link)
	}
	j.e.Log.Warn("the network of a running VM was not set again", "vm", j.vm.ID, "error", err)
	return h
}

// allocate gives a new VM its side of a network that others are on too. Until
// recorded, nobody else allocates: the record is what says that it is taken.
func allocate(j *job) error {
	n := j.e.Host.Networks[j.vm.Spec.Net]
	if n == nil {
		return nil
	}
	j.e.allocating.Lock()
	var taken []banger.NetConfig
	for _, vm := range j.e.all() {
		if vm.Net.Address != "" {
			taken = append(taken, vm.Net)
		}
	}
	side, err := n.Allocate(taken)
	if err != nil {
		j.e.allocating.Unlock()
		return fmt.Errorf("allocate an address: %w", err)
	}
	j.vm.Net = side
	return nil
}

func recorded(j *job) {
	if j.e.Host.Networks[j.vm.Spec.Net] != nil {
		j.e.allocating.Unlock()
	}
}
