package debian

import (
	"cmp"
	"strings"
)

// Compare orders two versions as deb-version(7) does: epochs by number, then
// upstream versions, then revisions.
func Compare(a, b string) int {
	ea, a := epoch(a)
	eb, b := epoch(b)
	if c := compareParts(ea, eb); c != 0 {
		return c
	}
	ua, ra := revision(a)
	ub, rb := revision(b)
	return cmp.Or(compareParts(ua, ub), compareParts(ra, rb))
}

func epoch(v string) (string, string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		return e, rest
	}
	return "0", v
}

func revision(v string) (string, string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// compareParts compares in turn the characters up to a digit, by order, and then the
// digits, as a number.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := cmp.Compare(order(a), order(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		var na, nb string
		na, a = digits(a)
		nb, b = digits(b)
		if c := cmp.Or(cmp.Compare(len(na), len(nb)), strings.Compare(na, nb)); c != 0 {
			return c
		}
	}
	return 0
}

// order ranks a string by its first character: a tilde before the end, the end
// (and a digit, which ends this part) before letters, letters before the rest.
func order(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

// digits cuts a number off the start of a string, and drops its leading zeros.
func digits(s string) (number, rest string) {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return strings.TrimLeft(s[:n], "0"), s[n:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
