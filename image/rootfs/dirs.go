package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"banger/image/erofs"
)

// mkdir makes a directory, or gives an existing one new attributes. It replaces anything
// else that had the name.
func (t *tree) mkdir(path []string, a erofs.Attr) error {
	if len(path) == 0 {
		return t.setAttr(&t.dirs[0], a)
	}
	parent, err := t.walk(path[:len(path)-1], true)
	if err != nil {
		return err
	}
	n, slot := t.lookup(parent, path[len(path)-1])
	if t.has(parent, n) && t.nodes[n].isDir() {
		t.mention(parent, n)
	} else if n, err = t.become(parent, n, path[len(path)-1], slot); err != nil {
		return err
	}
	return t.setAttr(t.dir(n), a)
}

// unnamed are the attributes of a directory that no entry is about.
var unnamed = packedAttr{mode: erofs.ModeDir | 0o755}

// become makes a new, empty directory of this layer. n is the node of its name, 0 if there
// is none.
func (t *tree) become(parent, n uint32, name string, slot uint32) (_ uint32, err error) {
	if t.dirN > MaxDirectories {
		return 0, fmt.Errorf("is one directory too many: an image may hold %d", MaxDirectories)
	}
	if n == 0 {
		n, err = t.insert(parent, name, slot)
	} else {
		err = t.clear(n)
	}
	if err != nil {
		return 0, err
	}
	d := t.dirN
	t.dirN++
	t.dirs[d] = directory{node: n, attr: unnamed, cut: uint16(t.layer)}
	t.set(n, ref{erofs.Inode(d), uint16(unnamed.mode)})
	t.mention(parent, n)
	return n, nil
}

// hide takes away what lower layers have under a path, as a whiteout of this layer asks.
// What this layer has there stays, whether it came before or comes later.
func (t *tree) hide(path []string) error {
	n, err := t.find(path)
	switch {
	case err != nil || n == rootNode:
		return nil // there is nothing to hide
	case t.nodes[n].layer() < t.layer:
		return t.clear(n)
	case t.nodes[n].isDir():
		d := t.dir(n)
		d.cut = uint16(t.layer)
		if uint64(d.set) < t.layer { // this layer only has something in it
			d.attr = unnamed
		}
	}
	return nil
}

// hideAll takes away what lower layers have in a directory.
func (t *tree) hideAll(path []string) {
	if n, err := t.find(path); err == nil && t.nodes[n].isDir() {
		t.dir(n).cut = uint16(t.layer)
	}
}

func (t *tree) setAttr(d *directory, a erofs.Attr) error {
	p := packedAttr{mode: uint32(a.Mode), uid: a.UID, gid: a.GID, sec: a.Sec, nsec: a.Nsec}
	if len(a.Xattrs) > 0 {
		var err error
		if p.xattrs, err = t.keep(binary.LittleEndian.AppendUint32(nil, uint32(len(a.Xattrs))), a.Xattrs); err != nil {
			return err
		}
	}
	d.attr, d.set = p, uint16(t.layer)
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
	if err := t.settle(); err != nil {
		return err
	}
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

// settle finds the names that are in the image and counts them, and removes the others.
func (t *tree) settle() error {
	for n := uint32(1); n < t.nodeN; n++ {
		parent := t.nodes[n].parent
		if !t.nodes[parent].isDir() || !t.has(parent, n) {
			if err := t.clear(n); err != nil {
				return err
			}
			continue
		}
		d := t.dir(parent)
		d.names++
		if t.nodes[n].isDir() {
			d.subs++
		}
		t.live++
	}
	return nil
}

// sort fills order with all names but the root, directory by directory, by their bytes.
func (t *tree) sort() {
	end := uint32(0)
	for i := range t.dirN {
		d := &t.dirs[i]
		d.first, end = end, end+d.names
		d.names = 0
	}
	for n := uint32(1); n < t.nodeN; n++ {
		if !t.nodes[n].isThere() {
			continue
		}
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
