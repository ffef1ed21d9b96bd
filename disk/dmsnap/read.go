package dmsnap

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"banger"
)

var _ banger.DiskReader = (*Disks)(nil)

// Read implements banger.DiskReader: a disk that isn't attached is read by its store's
// tables, without a device.
func (d *Disks) Read(ctx context.Context, dir string) (io.ReaderAt, int64, func(), error) {
	k, err := openDisk(dir)
	if err != nil {
		return nil, 0, nil, err
	}
	m := &mapped{disk: k, size: int64(k.sizeMiB) * mib}
	if err := m.load(ctx); err != nil {
		k.close()
		return nil, 0, nil, err
	}
	return m, m.size, k.close, nil
}

// mapped is a disk without a device.
type mapped struct {
	disk
	size  int64
	where []uint32 // the place of each chunk of the disk in the store; 0: it is the base's
}

// load reads the tables of the store.
func (m *mapped) load(ctx context.Context) error {
	m.where = make([]uint32, m.size/chunk)
	var h header
	if err := binary.Read(io.NewSectionReader(m.cow, 0, chunk), binary.LittleEndian, &h); err != nil || h.Magic != headerMagic {
		return err // never attached: all is the base's
	}
	table := make([]byte, chunk)
	for at := int64(1); ; at += areaChunks {
		if err := ctx.Err(); err != nil {
			return banger.Errorf(banger.CodeCanceled, "read disk: %w", err)
		}
		if n, err := m.cow.ReadAt(table, at*chunk); n < len(table) {
			return fmt.Errorf("read the tables of %s: %w", m.cow.Name(), err)
		}
		for e := table; len(e) > 0; e = e[16:] {
			chunkOf, place := binary.LittleEndian.Uint64(e), binary.LittleEndian.Uint64(e[8:])
			if place == 0 {
				return nil
			}
			if chunkOf >= uint64(len(m.where)) || place > uint64(m.size/chunk)*2 {
				return banger.Errorf(banger.CodeConflict, "%s has the chunk %d at %d", m.cow.Name(), chunkOf, place).WithHint("something wrote over it: restore it, or delete the VM")
			}
			m.where[chunkOf] = uint32(place)
		}
	}
}

// ReadAt implements io.ReaderAt.
func (m *mapped) ReadAt(b []byte, at int64) (done int, err error) {
	for done < len(b) {
		pos := at + int64(done)
		if pos < 0 || pos >= m.size {
			return done, io.EOF
		}
		part := b[done:min(len(b), done+int(chunk-pos%chunk))]
		from, off := io.ReaderAt(m.cow), int64(m.where[pos/chunk])*chunk+pos%chunk
		if m.where[pos/chunk] == 0 {
			from, off = m.base, pos
			clear(part) // the base may be shorter
		}
		n, err := from.ReadAt(part, off)
		if n < len(part) && (err != io.EOF || m.where[pos/chunk] != 0) {
			return done + n, err
		}
		done += len(part)
	}
	return done, nil
}
