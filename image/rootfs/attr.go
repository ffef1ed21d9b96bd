package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strings"

	"banger/image/erofs"
)

const (
	xattrRecord = "SCHILY.xattr."
	aclRecord   = "SCHILY.acl."
	accessACL   = "system.posix_acl_access"
	defaultACL  = "system.posix_acl_default"
	permBits    = 0o7777
)

// Older GNU tars encode these two bytes in attribute names, as "=" ends a record's key.
var keyDecoder = strings.NewReplacer("%3D", "=", "%25", "%")

// attributes returns the attributes of an entry's inode.
func attributes(h *tar.Header, typ uint16) (erofs.Attr, error) {
	a := erofs.Attr{
		Mode: typ | uint16(h.Mode&permBits),
		UID:  uint32(h.Uid), GID: uint32(h.Gid),
		Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond()),
	}
	// No file has the highest id: chown(2) takes it as "don't change".
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return a, fmt.Errorf("has an owner Linux doesn't have: %d:%d", h.Uid, h.Gid)
	}
	if typ == erofs.ModeSymlink {
		a.Mode |= 0o777 // the only mode of links on Linux
	}
	set, err := xattrs(h, typ)
	if err != nil {
		return a, err
	}
	if acl, ok := set[accessACL]; ok {
		perm, minimal := aclPermissions(acl)
		a.Mode = a.Mode&^0o777 | perm
		if minimal { // Linux doesn't store a list that says the same as the mode
			delete(set, accessACL)
		}
	}
	a.Xattrs, err = erofs.EncodeXattrs(set)
	return a, err
}

// xattrs returns an entry's attributes. It drops those that a Linux file of the type
// can't have, as tar -x does with a warning: name spaces of other systems ("com.apple."),
// and "user." on links and devices.
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
			if len(value) == aclHeader { // it has no entries
				continue
			}
		}
		set[name] = value
	}
	// GNU tar writes lists as text, with names of its host, and often also as attributes,
	// which have the numbers.
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
