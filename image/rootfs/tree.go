package rootfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/image/erofs"
)

// ref is what a name stands for.
type ref struct {
	inode erofs.Inode
	mode  uint16
}

// tree has every name of the image that is being made, and the attributes of directories,
// which may change until the end. All else is in the image already. Its tables are
// outside Go's heap, as large as their bounds allow: the kernel gives memory only when it
// is used, growing needs no copy, and the garbage collector doesn't need twice as much.
type tree struct {
	nodes []node
	dirs  []directory
	text  []byte // names and attributes, each after its length
	slots []uint32
	order []uint32
	nodeN uint32
	most  uint32 // of nodeN
	dirN  uint32
	textN uint32
	seed  maphash.Seed
	layer uint64 // the one that is being read, from 1 on; a root tar is the only one
	live  int    // names that are in the image, once settled
	// target reads a symbolic link of the image, drop takes a link to an inode away.
	target func(erofs.Inode) (string, error)
	drop   func(erofs.Inode) error
	maps   [][]byte
}

// node is one name. Its parent always has a lower index. It stays when a layer takes the
// name away: then its mode is 0, or its layer is below the cut of its directory.
type node struct {
	parent uint32
	name   uint32 // offset in text
	what   uint64 // the latest layer that has it << 52 | inode number << 16 | mode; of a directory its index in dirs, until room for its inode is reserved
}

const (
	layerShift = 52
	whatMask   = 1<<(layerShift-16) - 1 // of inode numbers: an image may have 2 TiB
)

type directory struct {
	attr  packedAttr
	node  uint32
	names uint32 // number of entries, once settled
	first uint32 // index in order of the first one, once sorted
	subs  uint32 // number of directories in it, once settled
	cut   uint16 // what earlier layers have in it isn't there
	child uint16 // the latest layer that has something in it
	set   uint16 // the layer that gave it its attributes
}

type packedAttr struct {
	sec            int64
	mode           uint32
	uid, gid, nsec uint32
	xattrs         uint32 // offset in text, 0 for none
}

const (
	slotCount = 1 << 21 // a power of two, a third more than MaxEntries
	rootNode  = 0
	gone      = 0xFFFFFFFF // the node of a directory that something else replaced
)

func newTree() (*tree, error) {
	t := &tree{seed: maphash.MakeSeed(), textN: 1, most: MaxEntries}
	var err error
	take := func(bytes int) []byte {
		if err != nil {
			return nil
		}
		var m []byte
		m, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err == nil {
			t.maps = append(t.maps, m)
		}
		return m
	}
	nodes := take((MaxEntries + 1) * int(unsafe.Sizeof(node{})))
	dirs := take((MaxDirectories + 1) * int(unsafe.Sizeof(directory{})))
	slots, order := take(slotCount*4), take((MaxEntries+1)*4)
	t.text = take(maxNameBytes)
	if err != nil {
		t.close()
		return nil, fmt.Errorf("take memory for the names: %w", err)
	}
	t.nodes = unsafe.Slice((*node)(unsafe.Pointer(&nodes[0])), MaxEntries+1)
	t.dirs = unsafe.Slice((*directory)(unsafe.Pointer(&dirs[0])), MaxDirectories+1)
	t.slots = unsafe.Slice((*uint32)(unsafe.Pointer(&slots[0])), slotCount)
	t.order = unsafe.Slice((*uint32)(unsafe.Pointer(&order[0])), MaxEntries+1)
	t.nodeN, t.dirN, t.layer = 1, 1, 1
	t.nodes[rootNode] = node{what: uint64(erofs.ModeDir)}
	t.dirs[0] = directory{attr: packedAttr{mode: erofs.ModeDir | 0o755}}
	return t, nil
}

func (t *tree) close() {
	for _, m := range t.maps {
		unix.Munmap(m)
	}
	*t = tree{}
}

// entries is how many names the image has, without the root; until the tree is settled
// those count that a later layer took away.
func (t *tree) entries() int { return cmp.Or(t.live, int(t.nodeN)-1) }

func (n node) ref() ref       { return ref{erofs.Inode(n.what >> 16 & whatMask), uint16(n.what)} }
func (n node) layer() uint64  { return n.what >> layerShift }
func (n node) isThere() bool  { return uint16(n.what) != 0 }
func (n node) isDir() bool    { return uint16(n.what)&erofs.ModeType == erofs.ModeDir }
func (n node) index() uint32  { return uint32(n.what >> 16 & whatMask) }
func (n *node) seen(l uint64) { n.what = n.what&(1<<layerShift-1) | l<<layerShift }

// dir returns a node's directory.
func (t *tree) dir(n uint32) *directory { return &t.dirs[t.nodes[n].index()] }

// has reports whether a node is still there in its directory, to which the path was
// walked: so what cuts a directory above that cuts this one, too.
func (t *tree) has(parent, n uint32) bool {
	if n == 0 || !t.nodes[n].isThere() || t.nodes[n].layer() < uint64(t.dir(parent).cut) {
		return false
	}
	if t.nodes[n].isDir() {
		d := t.dir(n)
		d.cut = max(d.cut, t.dir(parent).cut)
	}
	return true
}

// mention notes that this layer has a name.
func (t *tree) mention(parent, n uint32) {
	t.nodes[n].seen(t.layer)
	t.dir(parent).child = uint16(t.layer)
}

// lookup finds a name in a directory and the slot where it is or would be. A slot has a
// node's index, or 0 if it is empty: 0 is the root, which has no slot.
func (t *tree) lookup(parent uint32, name string) (n, slot uint32) {
	var key [4 + erofs.MaxNameLen]byte
	binary.LittleEndian.PutUint32(key[:], parent)
	slot = uint32(maphash.Bytes(t.seed, key[:4+copy(key[4:], name)])) % slotCount
	for ; t.slots[slot] != 0; slot = (slot + 1) % slotCount {
		n := t.slots[slot]
		if t.nodes[n].parent == parent && string(t.name(n)) == name {
			return n, slot
		}
	}
	return 0, slot
}

func (t *tree) name(n uint32) []byte {
	at := t.nodes[n].name
	return t.text[at+1 : at+1+uint32(t.text[at])]
}

// insert adds a name that isn't there yet.
func (t *tree) insert(parent uint32, name string, slot uint32) (uint32, error) {
	if t.nodeN > t.most {
		return 0, fmt.Errorf("is one too many: an image may hold %d (image_max_entries in config.toml)", t.most)
	}
	at, err := t.keep([]byte{byte(len(name))}, []byte(name))
	if err != nil {
		return 0, err
	}
	n := t.nodeN
	t.nodeN++
	t.nodes[n] = node{parent: parent, name: at}
	t.slots[slot] = n
	return n, nil
}

func (t *tree) keep(parts ...[]byte) (uint32, error) {
	at := t.textN
	for _, p := range parts {
		if int(t.textN)+len(p) > len(t.text) {
			return 0, fmt.Errorf("is one too many: names and directory attributes may take %d bytes in all", maxNameBytes)
		}
		t.textN += uint32(copy(t.text[t.textN:], p))
	}
	return at, nil
}

// maxFollowed is how many symbolic links are followed in a path, as in Linux.
const maxFollowed = 40

// walk returns the directory that a path leads to. It follows symbolic links as they
// would lead in the image: absolute ones begin at its root, and none leads out of that.
// With make it makes missing directories.
func (t *tree) walk(path []string, make bool) (uint32, error) {
	at, followed := uint32(rootNode), 0
	for steps := 0; len(path) > 0; steps++ {
		if steps > maxPath {
			return 0, errors.New("lies behind symbolic links whose path is longer than Linux allows")
		}
		name := path[0]
		path = path[1:]
		switch {
		case name == "..":
			at = t.nodes[at].parent // the root's is the root
			continue
		case len(name) > erofs.MaxNameLen:
			return 0, errors.New("lies behind a symbolic link to a name longer than 255 bytes")
		}
		n, slot := t.lookup(at, name)
		switch there := t.has(at, n); {
		case !there && !make:
			return 0, errors.New("isn't there at this point")
		case !there:
			var err error
			if n, err = t.become(at, n, name, slot); err != nil {
				return 0, err
			}
		case t.nodes[n].ref().mode&erofs.ModeType == erofs.ModeSymlink:
			if followed++; followed > maxFollowed {
				return 0, fmt.Errorf("lies behind more than %d symbolic links, the last of them %q", maxFollowed, name)
			}
			target, err := t.target(t.nodes[n].ref().inode)
			if err != nil {
				return 0, fmt.Errorf("lies behind the symbolic link %q: %w", name, err)
			}
			if target[0] == '/' {
				at = rootNode
			}
			path = append(parts(target), path...)
			continue
		case !t.nodes[n].isDir():
			return 0, fmt.Errorf("lies below %q, which is not a directory", name)
		case make:
			t.mention(at, n)
		}
		at = n
	}
	return at, nil
}

// parts are the components of a link's target.
func parts(target string) []string {
	return slices.DeleteFunc(strings.Split(target, "/"), func(s string) bool { return s == "" || s == "." })
}

// isImageArchive reports whether the top directory is that of an archive of images in
// layers, and not that of a root filesystem.
func (t *tree) isImageArchive() bool {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			n, _ := t.lookup(rootNode, name)
			return n != 0
		})
	}
	return has("manifest.json", "oci-layout") && !has("bin", "sbin", "usr", "etc", "lib", "init")
}

// find returns the node that a path leads to. A symbolic link at its end isn't followed.
func (t *tree) find(path []string) (uint32, error) {
	if len(path) == 0 {
		return rootNode, nil
	}
	at, err := t.walk(path[:len(path)-1], false)
	if err != nil {
		return 0, err
	}
	n, _ := t.lookup(at, path[len(path)-1])
	if !t.has(at, n) {
		return 0, errors.New("isn't there at this point")
	}
	return n, nil
}

// create makes a name for something that is not a directory. It replaces what had the
// name before, but no directory in which this layer has something.
func (t *tree) create(path []string) (n uint32, err error) {
	parent, err := t.walk(path[:len(path)-1], true)
	if err != nil {
		return 0, err
	}
	name := path[len(path)-1]
	n, slot := t.lookup(parent, name)
	if n == 0 {
		if n, err = t.insert(parent, name, slot); err != nil {
			return 0, err
		}
	} else if t.has(parent, n) && t.nodes[n].isDir() && uint64(t.dir(n).child) == t.layer {
		return 0, errors.New("would replace a directory that isn't empty")
	}
	err = t.clear(n)
	t.mention(parent, n)
	return n, err
}

// clear takes away what a name stands for.
func (t *tree) clear(n uint32) error {
	was := t.nodes[n]
	t.nodes[n].what = 0
	switch {
	case !was.isThere():
		return nil
	case was.isDir():
		t.dirs[was.index()].node = gone
		return nil
	}
	return t.drop(was.ref().inode)
}

// set says what a name of this layer stands for.
func (t *tree) set(n uint32, r ref) {
	t.nodes[n].what = t.layer<<layerShift | uint64(r.inode)<<16 | uint64(r.mode)
}
