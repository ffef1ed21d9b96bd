// Package node is what a file of any Linux file system is, without its names: attributes,
// content, entries. A Tree is a file system that is read so. Pack writes nodes as a tar.
//
// Sizes are in bytes. It knows no file system.
package node

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"time"
)

// The type bits of Attr.Mode, those of inode(7).
const (
	ModeType    = 0o170000
	ModeFIFO    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModeSocket  = 0o140000
)

// MaxNames bounds the entries of one directory that are read into memory.
const MaxNames = 1 << 20

// Attr is what a node has besides its content.
type Attr struct {
	Mode         uint16 // type and permissions, as in st_mode
	UID, GID     uint32
	Sec          int64  // modification time, seconds since 1970
	Nsec         uint32 // and nanoseconds
	Size         int64
	Links        uint32 // names that it has
	Major, Minor uint32 // of a device
	Xattrs       map[string]string
}

// Type returns the type bits.
func (a Attr) Type() uint16 { return a.Mode & ModeType }

// Name is an entry of a directory. The name has 1 to 255 bytes, no slash and no zero; it
// isn't "." or "..".
type Name struct {
	Name string
	Ino  uint64
}

// Tree is a file system, read by inode numbers. Its content may be hostile: whoever
// implements it checks what it reads. A directory may be named twice in it: whoever walks
// it must bound that.
type Tree interface {
	Root() uint64
	Attr(ino uint64) (Attr, error)
	// Names returns a directory's entries, sorted by their bytes.
	Names(ino uint64) ([]Name, error)
	// Content reads a regular file, or a symbolic link's target, to its end.
	Content(ino uint64) (io.Reader, error)
}

// ID tells nodes of several trees from each other.
type ID struct {
	Tree int
	Ino  uint64
}

// Packer writes nodes as a tar in PAX format. The same nodes give the same bytes.
type Packer struct {
	out   *tar.Writer
	names map[ID]string // of nodes with several names
}

// NewPacker returns a Packer to w.
func NewPacker(w io.Writer) *Packer {
	return &Packer{tar.NewWriter(w), map[ID]string{}}
}

// Close ends the tar. It doesn't close what it was written to.
func (p *Packer) Close() error { return p.out.Close() }

// Add writes a node under a name without a leading slash. If the node was added before,
// and can have several names, the entry is a hard link. Sockets are left out, as a tar
// can't have them.
func (p *Packer) Add(name string, id ID, a Attr, content func() (io.Reader, error)) error {
	h := &tar.Header{
		Name: name, Mode: int64(a.Mode & 0o7777), Uid: int(a.UID), Gid: int(a.GID),
		ModTime: time.Unix(a.Sec, int64(a.Nsec)), Format: tar.FormatPAX,
	}
	switch a.Type() {
	case ModeSocket:
		return nil
	case ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	default:
		if first, ok := p.names[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.out.WriteHeader(h)
		}
		if a.Links > 1 {
			p.names[id] = name
		}
	}
	if err := p.typed(h, a, content); err != nil {
		return err
	}
	for name, value := range a.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+strings.NewReplacer("%", "%25", "=", "%3D").Replace(name)] = value
	}
	if err := p.out.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg || h.Size == 0 {
		return err
	}
	r, err := content()
	if err != nil {
		return err
	}
	n, err := io.Copy(p.out, r)
	if err == nil && n != h.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// typed fills in what depends on a node's type.
func (p *Packer) typed(h *tar.Header, a Attr, content func() (io.Reader, error)) error {
	switch a.Type() {
	case ModeDir:
	case ModeRegular:
		h.Typeflag, h.Size = tar.TypeReg, a.Size
	case ModeFIFO:
		h.Typeflag = tar.TypeFifo
	case ModeChar, ModeBlock:
		h.Typeflag = tar.TypeChar
		if a.Type() == ModeBlock {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(a.Major), int64(a.Minor)
	case ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		r, err := content()
		if err != nil {
			return err
		}
		target, err := io.ReadAll(r)
		h.Linkname = string(target)
		return err
	default:
		return errors.New("is of a type that no file has")
	}
	return nil
}

// Mark writes an empty file of no owner, as a layer's whiteouts are.
func (p *Packer) Mark(name string) error {
	return p.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}
