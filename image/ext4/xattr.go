package ext4

import (
	"encoding/binary"
	"math"
)

// prefixes are the name spaces of attributes by their number.
var prefixes = map[byte]string{1: "user.", 2: accessACL, 3: defaultACL, 4: "trusted.", 6: "security.", 7: "system."}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// xattrs returns an inode's attributes: those in it, and those in a block of its own.
func (fs *FS) xattrs(n inode) (map[string]string, error) {
	set := map[string]string{}
	if at := 128 + n.extra(); n.extra() > 0 && len(n.raw) >= at+4 && le.Uint32(n.raw[at:]) == xattrMagic {
		if err := decode(set, n.raw[at+4:], n.raw[at+4:]); err != nil {
			return nil, err
		}
	}
	block := uint64(le.Uint32(n.raw[0x68:])) | uint64(le.Uint16(n.raw[0x76:]))<<32
	if block == 0 {
		return set, nil
	}
	b := make([]byte, fs.block)
	if err := fs.read(b, int64(block)*fs.block); err != nil {
		return nil, err
	}
	if le.Uint32(b) != xattrMagic {
		return nil, bad("a block of attributes")
	}
	return set, decode(set, b[32:], b)
}

// decode adds the attributes that entries has; their values lie in values.
func decode(set map[string]string, entries, values []byte) error {
	for len(entries) >= 16 && le.Uint32(entries) != 0 {
		size, index, at := int(entries[0]), entries[1], int(le.Uint16(entries[2:]))
		elsewhere, length := le.Uint32(entries[4:]), int64(le.Uint32(entries[8:]))
		prefix, known := prefixes[index]
		step := (16 + size + 3) &^ 3
		if !known || elsewhere != 0 || step > len(entries) || length > maxXattr || int64(at)+length > int64(len(values)) {
			return bad("an extended attribute of kind %d with %d bytes", index, length)
		}
		name, value := prefix+string(entries[16:16+size]), string(values[at:int64(at)+length])
		if name == accessACL || name == defaultACL {
			var err error
			if value, err = acl(value); err != nil {
				return err
			}
		}
		set[name] = value
		entries = entries[step:]
	}
	return nil
}

// acl makes the form of an access control list that programs see of ext4's own: which has
// version 1, and ids only where there are any.
func acl(s string) (string, error) {
	b := []byte(s)
	if len(b) < 4 || le.Uint32(b) != 1 {
		return "", bad("an access control list")
	}
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for b = b[4:]; len(b) > 0; {
		const user, group = 0x02, 0x08
		if len(b) < 4 {
			return "", bad("an access control list")
		}
		id, size := uint32(math.MaxUint32), 4
		if tag := le.Uint16(b); tag == user || tag == group {
			if size = 8; len(b) < size {
				return "", bad("an access control list")
			}
			id = le.Uint32(b[4:])
		}
		out = binary.LittleEndian.AppendUint32(append(out, b[:4]...), id)
		b = b[size:]
	}
	return string(out), nil
}
