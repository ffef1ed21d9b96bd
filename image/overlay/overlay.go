// Package overlay makes a layer, as the image specification of the OCI has it, of what a VM
// has written: the upper directory of an overlay over the VM's image, and the directories
// that lie beside it on the VM's disk.
//
// What a layer can't say otherwise is spelled out in it: a directory that was renamed comes
// with all that is in it, and a file of the image with several names that was changed comes
// with all of them. The same disk gives the same bytes.
//
// The disk is a guest's work, so what is in it isn't trusted: names, depths and counts are
// bounded. Sizes are in bytes. It knows no file system; see package node. The overlay's
// format is that of Documentation/filesystems/overlayfs.rst and fs/overlayfs in the Linux source.
package overlay

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"banger"
	"banger/image/node"
)

// Bounds of one layer.
const (
	MaxEntries = 3 << 19   // names in it
	MaxBytes   = 512 << 30 // of its files, holes included
	maxPath    = 4095      // bytes of one
)

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	ours           = "trusted.overlay."         // attributes of the overlay itself
	nested         = "trusted.overlay.overlay." // those of an overlay in it
)

// The nodes' trees.
const (
	low = iota // the image
	up         // the disk
)

// Change is what a VM has written.
type Change struct {
	Image node.Tree // that the VM was made from
	Disk  node.Tree
	Upper string            // directory of the disk that lies over the image
	Plain map[string]string // directories of the disk that lie over the one of a path; relative paths
	// Skip says which paths aren't part of the layer, whatever is there. Nil: all are.
	Skip func(path string) bool
	// Progress is called now and then, with how many entries were written. Nil: nobody asks.
	Progress func(entries int)
}

// maker is the state of one Write.
type maker struct {
	Change
	ctx     context.Context
	pack    *node.Packer
	entries int
	bytes   int64
	seen    int
	copied  map[uint64]uint64 // inodes of the image with several names, to those of the disk that stand for them
	wrote   map[string]bool   // names of such inodes
}

// Write writes the layer as a tar. Errors are those of the trees and of w; a disk that
// can't be one of a VM is banger.CodeInvalid.
func (c Change) Write(ctx context.Context, w io.Writer) error {
	m := &maker{Change: c, ctx: ctx, pack: node.NewPacker(w), copied: map[uint64]uint64{}, wrote: map[string]bool{}}
	upper, err := m.directory(c.Disk, c.Upper)
	if err != nil {
		return err
	}
	if upper != 0 {
		if err := m.gather(upper, 0); err != nil {
			return err
		}
		if err := m.merge("", upper, c.Image.Root()); err != nil {
			return err
		}
		if len(m.copied) > 0 {
			if err := m.links("", upper, c.Image.Root()); err != nil {
				return err
			}
		}
	}
	if err := m.plain(); err != nil {
		return err
	}
	return m.pack.Close()
}

// directory finds a directory of a tree; 0 when it isn't there.
func (m *maker) directory(t node.Tree, name string) (uint64, error) {
	ino := t.Root()
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			continue
		}
		list, err := t.Names(ino)
		if err != nil {
			return 0, err
		}
		next, ok := lookup(list, part)
		if !ok {
			return 0, nil
		}
		a, err := t.Attr(next)
		if err != nil || a.Type() != node.ModeDir {
			return 0, err
		}
		ino = next
	}
	return ino, nil
}

// names returns a directory's entries; none for 0.
func (m *maker) names(t node.Tree, ino uint64) ([]node.Name, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, banger.Errorf(banger.CodeCanceled, "read the disk: %w", err)
	}
	if ino == 0 {
		return nil, nil
	}
	list, err := t.Names(ino)
	if m.seen += len(list); m.seen > 8*MaxEntries {
		return nil, tooMany()
	}
	return list, err
}

// both returns the entries of a directory of the disk, and of the image's below it.
func (m *maker) both(dir, below uint64) (list, old []node.Name, err error) {
	if list, err = m.names(m.Disk, dir); err == nil {
		old, err = m.names(m.Image, below)
	}
	return list, old, err
}

func tooMany() error {
	return banger.Errorf(banger.CodeInvalid, "the VM's disk has more files than an image may have: %d", MaxEntries)
}

func lookup(list []node.Name, name string) (uint64, bool) {
	i, ok := slices.BinarySearchFunc(list, name, func(n node.Name, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return 0, false
	}
	return list[i].Ino, true
}

// gather finds files of the image that have several names and were changed: then all names
// mean the changed one.
func (m *maker) gather(dir uint64, depth int) error {
	list, err := m.names(m.Disk, dir)
	if err != nil {
		return err
	}
	if depth > maxPath/2 {
		return deep()
	}
	for _, n := range list {
		a, err := m.Disk.Attr(n.Ino)
		if err != nil {
			return err
		}
		switch origin := originOf(a); {
		case a.Type() == node.ModeDir:
			if err := m.gather(n.Ino, depth+1); err != nil {
				return err
			}
		case origin == 0 || isWhiteout(a):
		default:
			// The origin is only a hint: one that isn't in the image means nothing.
			if old, err := m.Image.Attr(origin); err == nil && old.Links > 1 && old.Type() == a.Type() {
				m.copied[origin] = n.Ino
			}
		}
	}
	return nil
}

func deep() error {
	return banger.Errorf(banger.CodeInvalid, "the VM's disk has a path of over %d bytes", maxPath)
}

// originOf returns the inode of the image that a file was copied from; 0 when it is new.
// The attribute is a file handle: version, magic number, length, flags, type, UUID, then the
// inode's number in 32 bits, or its upper and its lower half.
func originOf(a node.Attr) uint64 {
	const head, magic, inode32, inode64 = 5 + 16, 0xFB, 1, 0x81
	v := []byte(a.Xattrs[ours+"origin"])
	le := binary.LittleEndian
	switch {
	case len(v) < head+8 || v[1] != magic:
		return 0
	case v[4] == inode32:
		return uint64(le.Uint32(v[head:]))
	case v[4] == inode64:
		return uint64(le.Uint32(v[head:]))<<32 | uint64(le.Uint32(v[head+4:]))
	}
	return 0
}

// isWhiteout reports whether a node of the upper directory says that there is nothing.
func isWhiteout(a node.Attr) bool {
	_, marked := a.Xattrs[ours+"whiteout"]
	return a.Type() == node.ModeChar && a.Major == 0 && a.Minor == 0 || marked && a.Type() == node.ModeRegular && a.Size == 0
}

// merge writes what a directory of the disk changes in one of the image, 0 for none.
func (m *maker) merge(at string, dir, below uint64) error {
	list, old, err := m.both(dir, below)
	if err != nil {
		return err
	}
	for _, n := range list {
		name := path.Join(at, n.Name)
		if m.Skip != nil && m.Skip(name) {
			continue
		}
		a, err := m.Disk.Attr(n.Ino)
		if err != nil {
			return err
		}
		hides, covers := lookup(old, n.Name)
		switch {
		case isWhiteout(a):
			if covers {
				err = m.mark(path.Join(at, whiteoutPrefix+n.Name))
			}
		case a.Type() == node.ModeDir:
			err = m.dir(name, n, a, below, hides)
		default:
			err = m.add(name, up, n.Ino, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dir writes a directory of the disk. below is the image's directory that its parent lies
// over, hides what has its name there.
func (m *maker) dir(name string, n node.Name, a node.Attr, below, hides uint64) error {
	under, moved, err := m.under(n, a, below, hides)
	if err != nil {
		return err
	}
	if under == 0 && hides == 0 && m.isMountPoint(name, n.Ino) {
		return nil
	}
	if err := m.add(name, up, n.Ino, a); err != nil {
		return err
	}
	if hides != 0 && under != hides {
		if old, err := m.Image.Attr(hides); err == nil && old.Type() == node.ModeDir {
			if err := m.mark(path.Join(name, opaqueName)); err != nil {
				return err
			}
		}
	}
	if moved {
		return m.whole(name, n.Ino, under)
	}
	return m.merge(name, n.Ino, under)
}

// isMountPoint reports whether a directory was only made to mount something there: the
// kernel's modules, or a directory of the disk.
func (m *maker) isMountPoint(name string, ino uint64) bool {
	list, err := m.Disk.Names(ino)
	_, plain := m.Plain[name]
	return err == nil && len(list) == 0 && (plain || strings.HasSuffix(path.Dir(name), "lib/modules"))
}

// under returns the image's directory that one of the disk lies over; 0: none. It has moved
// when that one had another name.
func (m *maker) under(n node.Name, a node.Attr, below, hides uint64) (ino uint64, moved bool, err error) {
	if v := a.Xattrs[ours+"opaque"]; v == "y" {
		return 0, false, nil
	}
	ino = hides
	if to, ok := a.Xattrs[ours+"redirect"]; ok {
		switch {
		case strings.HasPrefix(to, "/"):
			if ino, err = m.directory(m.Image, to); err != nil {
				return 0, false, err
			}
		case strings.Contains(to, "/"):
			return 0, false, banger.Errorf(banger.CodeInvalid, "the VM's disk has a directory %q that comes from %q", n.Name, to)
		default:
			list, err := m.names(m.Image, below)
			if err != nil {
				return 0, false, err
			}
			ino, _ = lookup(list, to)
		}
		moved = ino != hides
	}
	if ino == 0 {
		return 0, moved, nil
	}
	old, err := m.Image.Attr(ino)
	if err != nil || old.Type() != node.ModeDir {
		return 0, false, err
	}
	return ino, moved, nil
}

// whole writes all that is in a directory of the disk over one of the image.
func (m *maker) whole(at string, dir, below uint64) error {
	list, old, err := m.both(dir, below)
	if err != nil {
		return err
	}
	for _, n := range list {
		name := path.Join(at, n.Name)
		a, err := m.Disk.Attr(n.Ino)
		if err != nil {
			return err
		}
		hides, _ := lookup(old, n.Name)
		switch {
		case isWhiteout(a):
		case a.Type() == node.ModeDir:
			under, _, err := m.under(n, a, below, hides)
			if err == nil {
				err = m.add(name, up, n.Ino, a)
			}
			if err == nil {
				err = m.whole(name, n.Ino, under)
			}
			if err != nil {
				return err
			}
		default:
			if err := m.add(name, up, n.Ino, a); err != nil {
				return err
			}
		}
	}
	for _, n := range old {
		if _, ok := lookup(list, n.Name); ok {
			continue
		}
		if err := m.copy(path.Join(at, n.Name), low, n.Ino); err != nil {
			return err
		}
	}
	return nil
}

// copy writes a node, and all that is in it.
func (m *maker) copy(name string, tree int, ino uint64) error {
	t := m.tree(tree)
	a, err := t.Attr(ino)
	if err != nil {
		return err
	}
	if err := m.add(name, tree, ino, a); err != nil || a.Type() != node.ModeDir {
		return err
	}
	list, err := m.names(t, ino)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := m.copy(path.Join(name, n.Name), tree, n.Ino); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) tree(tree int) node.Tree {
	if tree == low {
		return m.Image
	}
	return m.Disk
}

// links writes the names of the image that mean a file which was changed by another name.
func (m *maker) links(at string, dir, below uint64) error {
	list, old, err := m.both(dir, below)
	if err != nil {
		return err
	}
	for _, n := range old {
		name := path.Join(at, n.Name)
		over, covered := lookup(list, n.Name)
		a, err := m.Image.Attr(n.Ino)
		if err != nil {
			return err
		}
		if a.Type() != node.ModeDir {
			if by, ok := m.copied[n.Ino]; ok && !covered && !m.wrote[name] {
				a, err := m.Disk.Attr(by)
				if err == nil {
					err = m.add(name, up, by, a)
				}
				if err != nil {
					return err
				}
			}
			continue
		}
		if covered {
			a, err := m.Disk.Attr(over)
			if err != nil {
				return err
			}
			under, moved, err := m.under(node.Name{Name: n.Name, Ino: over}, a, below, n.Ino)
			if err != nil {
				return err
			}
			if a.Type() != node.ModeDir || under == 0 || moved {
				continue
			}
		}
		if err := m.links(name, over, n.Ino); err != nil {
			return err
		}
	}
	return nil
}

// plain writes the directories that lie beside the upper one.
func (m *maker) plain() error {
	var paths []string
	for p := range m.Plain {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		ino, err := m.directory(m.Disk, m.Plain[p])
		if err != nil {
			return err
		}
		list, err := m.names(m.Disk, ino)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		old, err := m.directory(m.Image, p)
		if err == nil {
			var a node.Attr
			if a, err = m.Disk.Attr(ino); err == nil {
				err = m.raw(p, ino, a)
			}
		}
		if err == nil && old != 0 {
			err = m.mark(path.Join(p, opaqueName))
		}
		for _, n := range list {
			if err == nil {
				err = m.beside(path.Join(p, n.Name), n.Ino)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beside is copy of the disk, as it is: an overlay's attributes there are of others.
func (m *maker) beside(name string, ino uint64) error {
	a, err := m.Disk.Attr(ino)
	if err != nil {
		return err
	}
	if err := m.raw(name, ino, a); err != nil || a.Type() != node.ModeDir {
		return err
	}
	list, err := m.names(m.Disk, ino)
	for _, n := range list {
		if err == nil {
			err = m.beside(path.Join(name, n.Name), n.Ino)
		}
	}
	return err
}

// add writes a node without the overlay's own attributes. One of the image that was changed
// is the changed one.
func (m *maker) add(name string, tree int, ino uint64, a node.Attr) error {
	if by, ok := m.copied[ino]; ok && tree == low {
		var err error
		tree, ino = up, by
		if a, err = m.Disk.Attr(by); err != nil {
			return err
		}
	}
	if tree == low {
		return m.write(name, tree, ino, a)
	}
	m.wrote[name] = m.wrote[name] || a.Links > 1 && len(m.copied) > 0
	set := map[string]string{}
	for key, value := range a.Xattrs {
		if rest, ok := strings.CutPrefix(key, nested); ok {
			set[ours+rest] = value
		} else if !strings.HasPrefix(key, ours) {
			set[key] = value
		}
	}
	a.Xattrs = set
	return m.write(name, tree, ino, a)
}

func (m *maker) raw(name string, ino uint64, a node.Attr) error { return m.write(name, up, ino, a) }

func (m *maker) write(name string, tree int, ino uint64, a node.Attr) error {
	if err := m.count(name); err != nil {
		return err
	}
	if a.Type() == node.ModeRegular {
		if a.Size > MaxBytes-m.bytes {
			return banger.Errorf(banger.CodeInvalid, "%q: the VM's files have more bytes than an image may have: %d", name, int64(MaxBytes)).
				WithHint("a sparse file counts as large as it seems")
		}
		m.bytes += a.Size
	}
	if base := path.Base(name); strings.HasPrefix(base, whiteoutPrefix) {
		return banger.Errorf(banger.CodeInvalid, "%q can't be in an image's layer: its name begins with %q, which means that a file was deleted", name, whiteoutPrefix).
			WithHint("rename or delete it in the VM")
	}
	err := m.pack.Add(name, node.ID{Tree: tree, Ino: ino}, a, func() (io.Reader, error) { return m.tree(tree).Content(ino) })
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

func (m *maker) mark(name string) error {
	if err := m.count(name); err != nil {
		return err
	}
	return m.pack.Mark(name)
}

func (m *maker) count(name string) error {
	if m.entries++; m.entries > MaxEntries {
		return tooMany()
	}
	if len(name) > maxPath {
		return deep()
	}
	if m.Progress != nil && m.entries%1000 == 0 {
		m.Progress(m.entries)
	}
	if err := m.ctx.Err(); err != nil {
		return banger.Errorf(banger.CodeCanceled, "read the disk: %w", err)
	}
	return nil
}

// Flat writes all of one tree as a layer of its own.
func Flat(ctx context.Context, t node.Tree, w io.Writer) error {
	m := &maker{Change: Change{Image: t}, ctx: ctx, pack: node.NewPacker(w), copied: map[uint64]uint64{}, wrote: map[string]bool{}}
	a, err := t.Attr(t.Root())
	if err != nil {
		return err
	}
	if err := m.pack.Add("./", node.ID{}, a, nil); err != nil {
		return err
	}
	list, err := m.names(t, t.Root())
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := m.copy(n.Name, low, n.Ino); err != nil {
			return err
		}
	}
	return m.pack.Close()
}
