package engine

import (
	"context"
	"io"

	"banger"
)

// Reader reads VMs that are stopped. It changes nothing: it only keeps others from doing so.
type Reader struct{ Engine *Engine }

// UseDisk gives a stopped VM's disk, of size bytes, to use for reading. No verb changes the
// VM meanwhile.
func (r Reader) UseDisk(ctx context.Context, ref, doing string, use func(vm banger.VM, disk io.ReaderAt, size int64) error) error {
	e := r.Engine
	_, err := e.turn(ctx, ref, doing, nil, func(ctx context.Context, j *job) error {
		if j.VM.State != banger.Stopped || j.Kind != "" {
			return banger.Errorf(banger.CodeConflict, "it is %s: its disk can be read when it is stopped", j.VM.State).
				WithHint("`banger vm stop %s` stops it", j.VM.Spec.Name)
		}
		disks, err := e.disk(j.VM)
		if err != nil {
			return err
		}
		reader, ok := disks.(banger.DiskReader)
		if !ok {
			return banger.Errorf(banger.CodeInvalid, "disks of the driver %q can't be read", j.VM.Spec.DiskDriver)
		}
		disk, size, done, err := reader.Read(ctx, e.dir(j.VM.ID))
		if err != nil {
			return err
		}
		defer done()
		return use(j.VM, disk, size)
	})
	return err
}
