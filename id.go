package banger

import (
	"fmt"
	"strings"
)

// IsID reports whether s has the form of an id of a VM, kernel, template or
// operation: 12 hex digits, lower case. Check it before s becomes part of a path.
func IsID(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789abcdef") == "" }

// shortID is how many digits of an image's id are shown to a person.
const shortID = 12

// ShortID is the part of an id that is shown to a person. Ids of images are longer.
func ShortID(id string) string { return id[:min(len(id), shortID)] }

// IsImageID reports whether s has the form of an image's id: the 64 hex digits of its
// content's SHA-256. Older images have the first 12 of them, which different contents
// may share.
func IsImageID(s string) bool {
	return IsID(s) || len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// NameOfImage returns a name for an image that has lost its last one: the first digits
// of its id, 12 or as many as make a name that isn't taken.
func NameOfImage(id string, taken func(name string) bool) string {
	for n := min(shortID, len(id)); n <= len(id); n++ {
		if !taken(id[:n]) {
			return id[:n]
		}
	}
	name := id
	for n := 2; taken(name); n++ {
		name = fmt.Sprintf("%s-%d", id, n)
	}
	return name
}
