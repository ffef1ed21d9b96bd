package rootfs

import (
	"archive/tar"
	"context"
	"io"
	"strings"

	"banger/image/erofs"
)

// maxTarget is the longest target of a symbolic link, maxPath the longest name of an
// entry: PATH_MAX of linux/limits.h without the zero byte.
const (
	maxPath   = 4095
	maxTarget = 4095
)

// add adds one entry of the archive to image and tree.
func (im *importer) add(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return checkGlobal(h)
	case 'V': // GNU volume label: tar -x ignores it
		return nil
	}
	mode, ok := entryType(h)
	if !ok {
		return refuse(h.Name, "is of a type (%q) that no root filesystem has", h.Typeflag)
	}
	path, err := im.splitPath(h.Name)
	if err != nil {
		return refuse(h.Name, "%w", err)
	}
	if hidden, ok := im.whiteout(path); ok {
		return im.hide(h, path[:len(path)-1], hidden)
	}
	if len(path) == 0 && mode != erofs.ModeDir {
		return refuse(h.Name, "is the root, but not a directory")
	}
	if h.Typeflag == tar.TypeLink {
		return im.addLink(h, path)
	}
	attr, err := attributes(h, mode)
	if err != nil {
		return refuse(h.Name, "%w", err)
	}
	if mode == erofs.ModeDir {
		if err := im.tree.mkdir(path, attr); err != nil {
			return refuse(h.Name, "%w", err)
		}
		return nil
	}
	n, err := im.tree.create(path)
	if err != nil {
		return refuse(h.Name, "%w", err)
	}
	inode, err := im.store(h, attr)
	if err != nil {
		return err
	}
	im.tree.set(n, ref{inode, attr.Mode})
	return nil
}

// The names by which a layer says what isn't there any more of those below it:
// https://github.com/opencontainers/image-spec/blob/main/layer.md.
const (
	whiteoutPrefix = ".wh."
	whiteoutAll    = ".wh..wh..opq"
	whiteoutOther  = ".wh..wh." // what AUFS has for itself
)

// whiteout returns the name that an entry of a layer hides.
func (im *importer) whiteout(path []string) (hidden string, ok bool) {
	if !im.layered || len(path) == 0 {
		return "", false
	}
	return strings.CutPrefix(path[len(path)-1], whiteoutPrefix)
}

// hide does what a whiteout in a directory asks.
func (im *importer) hide(h *tar.Header, dir []string, hidden string) error {
	switch name := whiteoutPrefix + hidden; {
	case name == whiteoutAll:
		im.tree.hideAll(dir)
		return nil
	case strings.HasPrefix(name, whiteoutOther):
		return nil
	case hidden == "" || hidden == "." || hidden == "..":
		return refuse(h.Name, "hides a name that no file can have")
	}
	return im.tree.hide(append(dir, hidden))
}

// store writes an entry's data and its inode.
func (im *importer) store(h *tar.Header, attr erofs.Attr) (erofs.Inode, error) {
	switch attr.Mode & erofs.ModeType {
	case erofs.ModeRegular:
		if h.Size > im.left {
			return 0, refuse(h.Name, "claims %d bytes, and with it the image would have more than %d (image_max_gib in config.toml)", h.Size, im.most.Bytes)
		}
		im.left -= h.Size
		return im.image.File(attr, h.Size, until{im.src.ctx, im.tar})
	case erofs.ModeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
			return 0, refuse(h.Name, "is a symbolic link with a target of %d bytes", len(h.Linkname))
		}
		return im.image.Symlink(attr, h.Linkname)
	case erofs.ModeFIFO:
		return im.image.Special(attr, 0, 0)
	}
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return 0, refuse(h.Name, "is a device Linux doesn't have: %d:%d", h.Devmajor, h.Devminor)
	}
	return im.image.Special(attr, uint32(h.Devmajor), uint32(h.Devminor))
}

// until is a reader that fails when its context ends. It is needed as holes in a file are
// read without reading from the stream.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// addLink adds a hard link. Its target must have come before, as for tar -x.
func (im *importer) addLink(h *tar.Header, path []string) error {
	target, err := im.splitPath(h.Linkname)
	if err != nil {
		return refuse(h.Name, "is a hard link to %q, which %w", h.Linkname, err)
	}
	found, err := im.tree.find(target)
	if err != nil {
		return refuse(h.Name, "is a hard link to %q, which %w", h.Linkname, err)
	}
	to := im.tree.nodes[found].ref()
	if to.mode&erofs.ModeType == erofs.ModeDir {
		return refuse(h.Name, "is a hard link to the directory %q", h.Linkname)
	}
	if _, err := im.image.Link(to.inode, 1); err != nil { // first, as it may be what has the name now
		return err
	}
	n, err := im.tree.create(path)
	if err != nil {
		return refuse(h.Name, "%w", err)
	}
	im.tree.set(n, to)
	return nil
}

// entryType returns the type bits of an entry's mode.
func entryType(h *tar.Header) (uint16, bool) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink:
		return erofs.ModeRegular, true
	case tar.TypeDir, 'D': // 'D' is a directory in GNU incremental archives
		return erofs.ModeDir, true
	case tar.TypeSymlink:
		return erofs.ModeSymlink, true
	case tar.TypeChar:
		return erofs.ModeChar, true
	case tar.TypeBlock:
		return erofs.ModeBlock, true
	case tar.TypeFifo:
		return erofs.ModeFIFO, true
	}
	return 0, false
}

// checkGlobal refuses global headers that change entries. Only git archive was seen to
// write global headers, and those are comments.
func checkGlobal(h *tar.Header) error {
	for key := range h.PAXRecords {
		if key != "comment" {
			return refuse(h.Name, "sets %q for all that follow, which isn't supported", key)
		}
	}
	return nil
}

type pathError string

func (e pathError) Error() string { return string(e) }

// splitPath splits the name of an entry into its components. The root has none. Names in
// layers may begin with slashes.
func (im *importer) splitPath(name string) ([]string, error) {
	if im.layered && name != "" {
		name = "./" + strings.TrimLeft(name, "/")
	}
	switch {
	case name == "":
		return nil, pathError("is empty")
	case name[0] == '/':
		return nil, pathError("is absolute: names must be relative to the root")
	case len(name) > maxPath:
		return nil, pathError("is longer than Linux allows")
	case strings.ContainsRune(name, 0):
		return nil, pathError("holds a zero byte")
	}
	var path []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, pathError("leads out of its directory by \"..\"")
		case len(part) > erofs.MaxNameLen:
			return nil, pathError("has a component longer than 255 bytes")
		default:
			path = append(path, part)
		}
	}
	return path, nil
}
