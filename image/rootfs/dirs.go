package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"banger/image/erofs"
)

// mkdir makes a directory, or gives an existing one new attributes. If something else had
// the name, it is replaced and returned.
func (t *tree) mkdir(path []string, a erofs.Attr) (old ref, err error) {
	if len(path) == 0 {
		return ref{}, t.setAttr(&t.dirs[0], a)
	}
	parent, err := t.parent(path)
	if err != nil {
		return ref{}, err
	}
	name := path[len(path)-1]
	n, slot := t.lookup(parent, name)
	switch {
	case n == 0:
		if n, err = t.insert(parent, name, slot); err != nil {
			return ref{}, err
		}
	case t.nodes[n].isDir():
		return ref{}, t.setAttr(t.dir(n), a)
	default:
		old = t.nodes[n].ref()
	}
	return old, t.become(n, a)
}

// become turns a node into a new, empty directory.
func (t *tree) become(n uint32, a erofs.Attr) error {
	if t.dirN > MaxDirectories {
		return fmt.Errorf("is one directory too many: an image may hold %d", MaxDirectories)
	}
	d := t.dirN
	t.dirN++
	t.dirs[d] = directory{node: n}
	t.nodes[n].what = uint64(d)<<16 | uint64(a.Mode)
	t.dir(t.nodes[n].parent).subs++
	return t.setAttr(&t.dirs[d], a)
}

func (t *tree) setAttr(d *directory, a erofs.Attr) error {
	p := packedAttr{mode: uint32(a.Mode), uid: a.UID, gid: a.GID, sec: a.Sec, nsec: a.Nsec}
	if len(a.Xattrs) > 0 {
		var err error
		if p.xattrs, err = t.keep(binary.LittleEndian.AppendUint32(nil, uint32(len(a.Xattrs))), a.Xattrs); err != nil {
			return err
		}
	}
	d.attr = p
	return nil
}

func (t *tree) attr(d *directory) erofs.Attr {
	p := d.attr
	a := erofs.Attr{Mode: uint16(p.mode), UID: p.uid, GID: p.gid, Sec: p.sec, Nsec: p.nsec}
	if p.xattrs != 0 {
		n := binary.LittleEndian.Uint32(t.text[p.xattrs:])
		a.Xattrs = t.text[p.xattrs+4 : p.xattrs+4+n]
	}
	return a
}

// write writes all directories into the image. First it reserves room for each, so that
// all inode numbers are known; then it writes their entries.
func (t *tree) write(w *erofs.Writer) error {
	t.sort()
	for i := range t.dirN {
		d := &t.dirs[i]
		if d.node == gone {
			continue
		}
		a := t.attr(d)
		var inode erofs.Inode
		var err error
		if d.node == rootNode {
			inode, err = w.PlaceRoot(a)
		} else {
			inode, err = w.PlaceDir(a, t.list(d))
		}
		if errors.Is(err, erofs.ErrXattr) {
			return refuse("./", "%w", err)
		}
		if err != nil {
			return err
		}
		t.set(d.node, ref{inode, a.Mode})
	}
	for i := range t.dirN {
		d := &t.dirs[i]
		if d.node == gone {
			continue
		}
		self := t.nodes[d.node]
		parent := t.nodes[self.parent] // the root's is the root
		if err := w.WriteDir(self.ref().inode, parent.ref().inode, t.attr(d), 2+d.subs, t.list(d)); err != nil {
			return err
		}
	}
	return nil
}

// sort fills order with all nodes but the root, directory by directory, by
// the bytes of their names.
func (t *tree) sort() {
	end := uint32(0)
	for i := range t.dirN {
		d := &t.dirs[i]
		d.first, end = end, end+d.names
		d.names = 0
	}
	for n := uint32(1); n < t.nodeN; n++ {
		d := t.dir(t.nodes[n].parent)
		t.order[d.first+d.names] = n
		d.names++
	}
	for i := range t.dirN {
		d := &t.dirs[i]
		slices.SortFunc(t.order[d.first:d.first+d.names], func(a, b uint32) int {
			return bytes.Compare(t.name(a), t.name(b))
		})
	}
}

// list yields a directory's entries in order.
func (t *tree) list(d *directory) erofs.Entries {
	return func(yield func(erofs.Entry) bool) {
		for _, n := range t.order[d.first : d.first+d.names] {
			r := t.nodes[n].ref()
			if !yield(erofs.Entry{Name: t.name(n), Inode: r.inode, Mode: r.mode}) {
				return
			}
		}
	}
}
