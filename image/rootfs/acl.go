package rootfs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Access control lists as linux/posix_acl_xattr.h has them: a version, then
// entries of tag, permissions and id, sorted by tag and id.
const (
	aclHeader  = 4
	aclVersion = 2
	aclEntry   = 8
	aclNoID    = 0xFFFFFFFF

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type ace struct {
	tag, perm uint16
	id        uint32
}

// parseACL turns the text form of acl(5) into an attribute value; an empty text means no
// list. A user or group must be a number, or have its number in a fourth field, as star
// writes it: only the host that wrote the archive knows the names.
func parseACL(text string) (string, error) {
	var list []ace
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#") // "#effective:r--"
		for field := range strings.SplitSeq(line, ",") {
			field = strings.TrimSpace(field)
			if field == "" {
				continue
			}
			e, err := parseACE(field)
			if err != nil {
				return "", err
			}
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return "", nil
	}
	slices.SortStableFunc(list, func(a, b ace) int {
		return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id))
	})
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range list {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b), checkACL(string(b))
}

func parseACE(line string) (ace, error) {
	f := strings.Split(line, ":")
	if len(f) < 2 || len(f) > 4 {
		return ace{}, fmt.Errorf("has the line %q", line)
	}
	if len(f) == 2 { // "other:r--", the short form of mask and other
		f = []string{f[0], "", f[1]}
	}
	e := ace{id: aclNoID}
	tags := map[string][2]uint16{
		"user": {aclUserObj, aclUser}, "u": {aclUserObj, aclUser},
		"group": {aclGroupObj, aclGroup}, "g": {aclGroupObj, aclGroup},
		"mask": {aclMask, 0}, "m": {aclMask, 0}, "other": {aclOther, 0}, "o": {aclOther, 0},
	}
	pair := tags[f[0]]
	e.tag = pair[0]
	if f[1] != "" {
		e.tag = pair[1]
		id := f[len(f)-1]
		if len(f) == 3 {
			id = f[1]
		}
		n, err := strconv.ParseUint(id, 10, 32)
		switch {
		case f[1] == "root" && err != nil:
		case err != nil:
			return ace{}, fmt.Errorf("names %q, without a number (pack with --xattrs --xattrs-include='*', which keeps the numbers)", f[1])
		}
		e.id = uint32(n)
	}
	if e.tag == 0 {
		return ace{}, fmt.Errorf("has the line %q", line)
	}
	for _, c := range f[2] {
		bit := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '-': 0}
		v, ok := bit[c]
		if !ok {
			return ace{}, fmt.Errorf("has the line %q", line)
		}
		e.perm |= v
	}
	return e, nil
}

func entriesOf(acl string) []ace {
	var list []ace
	for b := []byte(acl[aclHeader:]); len(b) >= aclEntry; b = b[aclEntry:] {
		le := binary.LittleEndian
		list = append(list, ace{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])})
	}
	return list
}

// checkACL checks a list as the kernel does: posix_acl_valid() of fs/posix_acl.c, which
// wants the entries in the order of their tags.
func checkACL(acl string) error {
	if len(acl) < aclHeader || (len(acl)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32([]byte(acl)) != aclVersion {
		return errACL
	}
	seen := map[uint16]bool{}
	last := uint16(0)
	for _, e := range entriesOf(acl) {
		named := e.tag == aclUser || e.tag == aclGroup
		single := e.tag == aclUserObj || e.tag == aclGroupObj || e.tag == aclMask || e.tag == aclOther
		if !named && !single || e.tag < last || single && seen[e.tag] || e.perm > 7 || named && e.id == aclNoID {
			return errACL
		}
		seen[e.tag], last = true, e.tag
	}
	extended := seen[aclUser] || seen[aclGroup]
	if len(seen) > 0 && (!seen[aclUserObj] || !seen[aclGroupObj] || !seen[aclOther] || extended && !seen[aclMask]) {
		return errACL
	}
	return nil
}

// aclPermissions returns the permission bits of a checked access list, with the mask in
// place of the group. A list is minimal if the mode says the same.
func aclPermissions(acl string) (perm uint16, minimal bool) {
	minimal = true
	var group, mask uint16
	for _, e := range entriesOf(acl) {
		switch e.tag {
		case aclUserObj:
			perm |= e.perm << 6
		case aclGroupObj:
			group = e.perm
		case aclOther:
			perm |= e.perm
		case aclMask:
			mask = e.perm
			minimal = false
		default:
			minimal = false
		}
	}
	if minimal {
		return perm | group<<3, true
	}
	return perm | mask<<3, false
}
