package debian_test

import (
	"strings"
	"testing"

	"banger/fetch/debian"
)

func TestCompare(t *testing.T) {
	// In the order of deb-version(7), lowest first; = joins equals.
	for _, row := range []string{
		"1.0~~ 1.0~~a 1.0~ 1.0~rc1 1.0 1.0-0.1 1.0-1 1.0-1+b1 1.0a 1.0+1 1.0.1 1.1 1.9 1.10 2 1:0.1 2:0",
		"1.2.3-1~deb12u1 1.2.3-1 1.2.3-1+deb12u1 1.2.3-1+deb12u2 1.2.3-2",
		"252.9-1 252.39-1~deb12u1 257",
		"1.0-9 1.0-1-1", // the last hyphen parts the revision off
	} {
		list := strings.Fields(row)
		for i, a := range list {
			for j, b := range list {
				want := 0
				switch {
				case i < j:
					want = -1
				case i > j:
					want = 1
				}
				if got := debian.Compare(a, b); got != want {
					t.Errorf("%s against %s: %d, want %d", a, b, got, want)
				}
			}
		}
	}
	for _, pair := range [][2]string{{"1.0", "1.0-0"}, {"0:1", "1"}, {"1.01", "1.1"}, {"1.0-00", "1.0"}} {
		if got := debian.Compare(pair[0], pair[1]); got != 0 {
			t.Errorf("%s against %s: %d, want equal", pair[0], pair[1], got)
		}
	}
}
