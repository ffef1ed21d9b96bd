package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strings"

	"banger/erofs"
)

const (
	xattrRecord = "SCHILY.xattr."
	aclRecord   = "SCHILY.acl."
	accessACL   = "system.posix_acl_access"
	defaultACL  = "system.posix_acl_default"
	permBits    = 0o7777
)

// Older archives of GNU tar hold these two bytes encoded in attribute names,
// as the first ends a record's key.
var keyDecoder = strings.NewReplacer("%3D", "=", "%25", "%")

// attributes returns what an entry's inode holds besides its type's own data.
func attributes(h *tar.Header, typ uint16) (erofs.Attr, error) {
	a := erofs.Attr{
		Mode: typ | uint16(h.Mode&permBits),
		UID:  uint32(h.Uid), GID: uint32(h.Gid),
		Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond()),
	}
	// The highest id means "leave it" to chown(2): no file has it.
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return a, fmt.Errorf("has an owner Linux doesn't have: %d:%d", h.Uid, h.Gid)
	}
	if typ == erofs.ModeSymlink {
		a.Mode |= 0o777 // on Linux they have no other
	}
	set, err := xattrs(h, typ)
	if err != nil {
		return a, err
	}
	if acl, ok := set[accessACL]; ok {
		perm, minimal := aclPermissions(acl)
		a.Mode = a.Mode&^0o777 | perm
		if minimal { // says no more than the mode: Linux stores none then
			delete(set, accessACL)
		}
	}
	a.Xattrs, err = erofs.EncodeXattrs(set)
	return a, err
}

// xattrs collects an entry's attributes. What a Linux file of the type can't
// have is dropped, as tar -x drops it with a warning: other systems' name
// spaces ("com.apple."), and "user." on links and devices.
func xattrs(h *tar.Header, typ uint16) (map[string]string, error) {
	set := map[string]string{}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		name = keyDecoder.Replace(name)
		if !canHold(name, typ) {
			continue
		}
		if name == accessACL || name == defaultACL {
			if err := checkACL(value); err != nil {
				return nil, err
			}
			if len(value) == aclHeader { // no entries: no list
				continue
			}
		}
		set[name] = value
	}
	// GNU tar writes lists as text, with this host's names for the ids, and
	// often as attributes too: those say the same in numbers.
	for kind, name := range map[string]string{"access": accessACL, "default": defaultACL} {
		text, ok := h.PAXRecords[aclRecord+kind]
		if _, binary := set[name]; !ok || binary || !canHold(name, typ) {
			continue
		}
		acl, err := parseACL(text)
		if err != nil {
			return nil, fmt.Errorf("has an access control list that %w", err)
		}
		if acl != "" {
			set[name] = acl
		}
	}
	return set, nil
}

func canHold(name string, typ uint16) bool {
	switch {
	case !erofs.KnownXattr(name):
		return false
	case strings.HasPrefix(name, "user."):
		return typ == erofs.ModeRegular || typ == erofs.ModeDir
	case name == accessACL:
		return typ != erofs.ModeSymlink
	case name == defaultACL:
		return typ == erofs.ModeDir
	}
	return true
}

var errACL = errors.New("isn't one of acl(5)")
