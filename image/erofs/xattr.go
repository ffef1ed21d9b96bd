package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Xattrs is a set of extended attributes in its on-disk form, as it follows an inode. Nil
// is the empty set.
type Xattrs []byte

// ErrXattr is in the chain of errors about attributes that an image can't have.
var ErrXattr = errors.New("extended attribute doesn't fit the format")

// The name spaces the format knows. An access control list's whole name is its prefix.
var xattrPrefixes = []struct {
	index byte
	name  string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
}

const (
	xattrHeader = 12
	// maxXattrList is XATTR_LIST_MAX of linux/limits.h: listxattr(2) can't
	// return more bytes of names.
	maxXattrList = 65536
)

// KnownXattr reports whether an image can hold attributes of this name's name space.
func KnownXattr(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.name)
		isACL := p.index == 2 || p.index == 3
		if ok && isACL == (rest == "") {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// EncodeXattrs returns the on-disk form of a set of attributes, always the same for the
// same set. ErrXattr for a name of another name space or of over 255 bytes, a value of
// over 65,535 bytes, names of over 64 KiB in all, or a set of over 256 KiB.
func EncodeXattrs(set map[string]string) (Xattrs, error) {
	if len(set) == 0 {
		return nil, nil
	}
	b := make(Xattrs, xattrHeader)
	list := 0
	for _, name := range slices.Sorted(maps.Keys(set)) {
		value := set[name]
		index, rest, ok := splitXattr(name)
		list += len(name) + 1
		if !ok || len(name) > 255 || len(value) > 0xFFFF || list > maxXattrList {
			return nil, fmt.Errorf("%w: %q of %d bytes", ErrXattr, name, len(value))
		}
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, rest...)
		b = append(b, value...)
		b = append(b, make([]byte, -len(b)&3)...)
		if (len(b)-xattrHeader)/4+1 > 0xFFFF {
			return nil, fmt.Errorf("%w: over %d bytes in all", ErrXattr, 4*0xFFFF)
		}
	}
	return b, nil
}

// count returns i_xattr_icount: the number of words after the header, plus one.
func (x Xattrs) count() uint16 {
	if len(x) == 0 {
		return 0
	}
	return uint16((len(x)-xattrHeader)/4 + 1)
}
