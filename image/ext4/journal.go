package ext4

import (
	"encoding/binary"
	"io"
)

// The journal's format, that of Documentation/filesystems/ext4/journal.rst. Its numbers
// are big-endian.
const (
	journalMagic    = 0xC03B3998
	blockDescriptor = 1
	blockCommit     = 2
	blockRevoke     = 5

	journal64Bit  = 0x2
	journalSumV2  = 0x8
	journalSumV3  = 0x10
	journalFast   = 0x20
	journalKnown  = 0x1 | journal64Bit | 0x4 | journalSumV2 | journalSumV3 | journalFast
	tagEscaped    = 0x1
	tagSameUUID   = 0x2
	tagLast       = 0x8
	journalHeader = 12
	maxJournal    = 1 << 20 // blocks
)

var be = binary.BigEndian

// log is the journal while it is read.
type log struct {
	fs          *FS
	list        []extent // of its inode
	first, size uint32   // blocks; the log lies in first to size and goes round
	features    uint32
	writes      []write
	revoked     map[uint64]uint32 // the last transaction that revokes a block
}

// write is a block in a transaction.
type write struct {
	block       uint64
	transaction uint32
	journaled
}

// replay finds the blocks of all transactions that the journal has whole, as the kernel
// does when it mounts such a file system.
func (fs *FS) replay() error {
	n, err := fs.inode(uint64(fs.journal))
	if err != nil {
		return err
	}
	s, err := fs.content(n)
	if err != nil {
		return err
	}
	super := make([]byte, 1024)
	if _, err := io.ReadFull(s, super); err != nil {
		return bad("the journal: %w", err)
	}
	l := &log{fs: fs, first: be.Uint32(super[0x14:]), size: be.Uint32(super[0x10:]), features: be.Uint32(super[0x28:]), revoked: map[uint64]uint32{}}
	if l.list, err = fs.extents(nil, n.raw[0x28:0x28+60], maxDepth); err != nil {
		return err
	}
	start, transaction := be.Uint32(super[0x1C:]), be.Uint32(super[0x18:])
	if be.Uint32(super) != journalMagic || int64(be.Uint32(super[0xC:])) != fs.block || l.size > maxJournal || l.first == 0 || l.first >= l.size || l.features&^uint32(journalKnown) != 0 {
		return bad("the journal")
	}
	if l.features&journalFast != 0 {
		fast := be.Uint32(super[0x54:])
		if fast == 0 {
			fast = 256
		}
		return bad("the journal has %d blocks of fast commits, which aren't known", fast)
	}
	if start == 0 {
		return nil // all of it is in place
	}
	if start < l.first || start >= l.size {
		return bad("the journal begins at block %d of %d", start, l.size)
	}
	if err := l.scan(start, transaction); err != nil {
		return err
	}
	fs.replayed = map[uint64]journaled{}
	for _, w := range l.writes {
		if last, ok := l.revoked[w.block]; !ok || int32(w.transaction-last) > 0 {
			fs.replayed[w.block] = w.journaled
		}
	}
	return nil
}

// place returns where a block of the journal lies.
func (l *log) place(block uint32) (int64, error) {
	for _, x := range l.list {
		if b := uint64(block); b >= x.from && b < x.from+x.count && x.at != 0 {
			return int64(x.at+b-x.from) * l.fs.block, nil
		}
	}
	return 0, bad("the journal has no block %d", block)
}

// after returns the block after one, n on.
func (l *log) after(block uint32, n int) uint32 {
	span := l.size - l.first
	return l.first + (block-l.first+uint32(n)%span)%span
}

// scan reads transactions until one isn't whole.
func (l *log) scan(at, transaction uint32) error {
	var writes []write
	revoked := map[uint64]bool{}
	b := make([]byte, l.fs.block)
	for range l.size {
		place, err := l.place(at)
		if err == nil {
			err = l.fs.readRaw(b, place)
		}
		if err != nil {
			return err
		}
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != transaction {
			return nil
		}
		step := 1
		switch be.Uint32(b[4:]) {
		case blockDescriptor:
			more, err := l.descriptor(b, at, transaction)
			if err != nil {
				return err
			}
			writes, step = append(writes, more...), 1+len(more)
		case blockRevoke:
			if err := l.revoke(b, revoked); err != nil {
				return err
			}
		case blockCommit:
			l.writes = append(l.writes, writes...)
			for block := range revoked {
				l.revoked[block] = transaction
			}
			writes, revoked = nil, map[uint64]bool{}
			transaction++
		default:
			return nil
		}
		if len(l.writes)+len(writes) > maxJournal {
			return bad("the journal has no end")
		}
		at = l.after(at, step)
	}
	return nil
}

// descriptor returns the blocks that follow a descriptor.
func (l *log) descriptor(b []byte, at, transaction uint32) (list []write, err error) {
	size := 8
	switch {
	case l.features&journalSumV3 != 0:
		size = 16
	case l.features&journal64Bit != 0:
		size = 12
	}
	if l.features&(journalSumV2|journalSumV3) == journalSumV2 {
		size += 2
	}
	for b = b[journalHeader:]; len(b) >= size; {
		w := write{block: uint64(be.Uint32(b)), transaction: transaction}
		flags := uint32(be.Uint16(b[6:]))
		if l.features&journalSumV3 != 0 {
			flags = be.Uint32(b[4:])
		}
		if l.features&journal64Bit != 0 {
			w.block |= uint64(be.Uint32(b[8:])) << 32
		}
		w.escaped = flags&tagEscaped != 0
		if w.at, err = l.place(l.after(at, len(list)+1)); err != nil {
			return nil, err
		}
		list = append(list, w)
		if flags&tagLast != 0 {
			return list, nil
		}
		if flags&tagSameUUID == 0 {
			size := size + 16
			if len(b) < size {
				break
			}
			b = b[size:]
			continue
		}
		b = b[size:]
	}
	return list, nil
}

// revoke adds the blocks that a block of the journal revokes.
func (l *log) revoke(b []byte, revoked map[uint64]bool) error {
	used, size := int(be.Uint32(b[journalHeader:])), 4
	if l.features&journal64Bit != 0 {
		size = 8
	}
	if used < journalHeader+4 || used > len(b) {
		return bad("a revocation of %d bytes", used)
	}
	for b = b[journalHeader+4 : used]; len(b) >= size; b = b[size:] {
		if size == 8 {
			revoked[be.Uint64(b)] = true
		} else {
			revoked[uint64(be.Uint32(b))] = true
		}
	}
	return nil
}
