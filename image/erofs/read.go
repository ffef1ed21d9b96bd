package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"banger/image/node"
)

// errDamaged is in the chain of an error when an image isn't one that Writer wrote.
var errDamaged = errors.New("the filesystem image is damaged")

// Reader reads an image that Writer wrote; it implements node.Tree. Other EROFS images
// may have forms that it doesn't know.
type Reader struct {
	file io.ReaderAt
	size int64
}

// NewReader returns a Reader of an image with size bytes.
func NewReader(f io.ReaderAt, size int64) (*Reader, error) {
	var super [superSize]byte
	if _, err := f.ReadAt(super[:], superOffset); err != nil || binary.LittleEndian.Uint32(super[:]) != superMagic || super[12] != blockBits {
		return nil, fmt.Errorf("%w: it has no superblock: %w", errDamaged, err)
	}
	return &Reader{f, size}, nil
}

// inode is one as it is on disk.
type inode struct {
	head   [inodeSize]byte
	at     int64 // of what follows it and its attributes
	xattrs int64 // their bytes
	layout uint16
	size   int64
	addr   uint32
}

func (r *Reader) inode(ino uint64) (n inode, err error) {
	if ino > uint64(r.size)/slotSize {
		return n, fmt.Errorf("%w: inode %d lies beyond its end", errDamaged, ino)
	}
	at := Inode(ino).offset()
	if err := r.read(n.head[:], at); err != nil {
		return n, err
	}
	le := binary.LittleEndian
	format := le.Uint16(n.head[0:])
	n.layout, n.size, n.addr = format>>1&7, int64(le.Uint64(n.head[8:])), le.Uint32(n.head[16:])
	if words := int64(le.Uint16(n.head[2:])); words > 0 {
		n.xattrs = xattrHeader + 4*(words-1)
	}
	n.at = at + inodeSize + n.xattrs
	if format&1 != 1 || n.size < 0 {
		return n, fmt.Errorf("%w: inode %d isn't one", errDamaged, ino)
	}
	return n, nil
}

func (r *Reader) read(b []byte, at int64) error {
	if n, err := r.file.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("%w: at byte %d: %w", errDamaged, at, err)
	}
	return nil
}

// Root implements node.Tree.
func (r *Reader) Root() uint64 { return uint64(rootInode) }

// Attr implements node.Tree.
func (r *Reader) Attr(ino uint64) (node.Attr, error) {
	n, err := r.inode(ino)
	if err != nil {
		return node.Attr{}, err
	}
	le := binary.LittleEndian
	a := node.Attr{
		Mode: le.Uint16(n.head[4:]), UID: le.Uint32(n.head[24:]), GID: le.Uint32(n.head[28:]),
		Sec: int64(le.Uint64(n.head[32:])), Nsec: le.Uint32(n.head[40:]), Size: n.size, Links: le.Uint32(n.head[linksOffset:]),
	}
	if t := a.Type(); t == ModeChar || t == ModeBlock {
		a.Major, a.Minor = n.addr>>8&0xFFF, n.addr&0xFF|n.addr>>12&^0xFF
	}
	if n.xattrs > 0 {
		b := make([]byte, n.xattrs)
		if err := r.read(b, n.at-n.xattrs); err != nil {
			return a, err
		}
		a.Xattrs, err = decodeXattrs(b)
	}
	return a, err
}

// decodeXattrs undoes EncodeXattrs.
func decodeXattrs(b []byte) (map[string]string, error) {
	set := map[string]string{}
	for b = b[xattrHeader:]; len(b) >= 4; {
		name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		end := (4 + name + value + 3) &^ 3
		prefix := ""
		for _, p := range xattrPrefixes {
			if p.index == b[1] {
				prefix = p.name
			}
		}
		if prefix == "" || end > len(b) {
			return nil, fmt.Errorf("%w: an extended attribute", errDamaged)
		}
		set[prefix+string(b[4:4+name])] = string(b[4+name : 4+name+value])
		b = b[end:]
	}
	return set, nil
}

// Names implements node.Tree.
func (r *Reader) Names(ino uint64) ([]node.Name, error) {
	content, err := r.Content(ino)
	if err != nil {
		return nil, err
	}
	var list []node.Name
	block := make([]byte, blockSize)
	for {
		n, err := io.ReadFull(content, block)
		if n == 0 {
			if err == io.EOF {
				return list, nil
			}
			return nil, err
		}
		if list, err = names(list, block[:n]); err != nil {
			return nil, err
		}
	}
}

// names appends a directory block's names.
func names(list []node.Name, b []byte) ([]node.Name, error) {
	le := binary.LittleEndian
	if len(b) < direntSize {
		return nil, fmt.Errorf("%w: a directory", errDamaged)
	}
	count := int(le.Uint16(b[8:])) / direntSize
	for i := range count {
		if (i+1)*direntSize > len(b) {
			return nil, fmt.Errorf("%w: a directory", errDamaged)
		}
		e, end := b[i*direntSize:], len(b)
		if i+1 < count && (i+2)*direntSize <= len(b) {
			end = int(le.Uint16(b[(i+1)*direntSize+8:]))
		}
		begin := int(le.Uint16(e[8:]))
		if begin > end || end > len(b) || len(list) >= MaxEntriesOfDir {
			return nil, fmt.Errorf("%w: a directory", errDamaged)
		}
		name, _, _ := bytes.Cut(b[begin:end], []byte{0}) // the last one is padded
		if s := string(name); s != "." && s != ".." {
			list = append(list, node.Name{Name: s, Ino: le.Uint64(e)})
		}
	}
	return list, nil
}

// MaxEntriesOfDir bounds what Names reads.
const MaxEntriesOfDir = 3 << 19

// Content implements node.Tree.
func (r *Reader) Content(ino uint64) (io.Reader, error) {
	n, err := r.inode(ino)
	if err != nil {
		return nil, err
	}
	switch n.layout {
	case layoutPlain:
		return io.NewSectionReader(r.file, int64(n.addr)*blockSize, n.size), nil
	case layoutInline:
		whole := n.size &^ (blockSize - 1)
		return io.MultiReader(io.NewSectionReader(r.file, int64(n.addr)*blockSize, whole), io.NewSectionReader(r.file, n.at, n.size-whole)), nil
	case layoutChunked:
		return &chunks{r: r, table: n.at, shift: blockBits + n.addr&31, left: n.size}, nil
	}
	return nil, fmt.Errorf("%w: inode %d has layout %d", errDamaged, ino, n.layout)
}

// chunks reads a file of chunks.
type chunks struct {
	r     *Reader
	table int64
	shift uint32
	left  int64     // bytes that weren't read
	now   io.Reader // the rest of the current chunk
}

func (c *chunks) Read(b []byte) (int, error) {
	for c.now == nil {
		if c.left == 0 {
			return 0, io.EOF
		}
		var entry [4]byte
		if err := c.r.read(entry[:], c.table); err != nil {
			return 0, err
		}
		c.table += 4
		size := min(c.left, 1<<min(c.shift, 62))
		c.left -= size
		c.now = io.LimitReader(hole{}, size)
		if block := binary.LittleEndian.Uint32(entry[:]); block != nullBlock {
			c.now = io.NewSectionReader(c.r.file, int64(block)*blockSize, size)
		}
	}
	n, err := c.now.Read(b)
	if err == io.EOF {
		c.now, err = nil, nil
		if n == 0 {
			return c.Read(b)
		}
	}
	return n, err
}

// hole is zeros without an end.
type hole struct{}

func (hole) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
