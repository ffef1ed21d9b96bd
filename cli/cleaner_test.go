package cli

import (
	"bytes"
	"testing"
)

// A control character of two bytes stays none when its bytes come one by one.
func TestCleaner(t *testing.T) {
	for _, parts := range [][]string{{"a\x1b\u009bé\n"}, {"a\x1b\xc2", "\x9bé\n"}} {
		var b bytes.Buffer
		c := &cleaner{w: &b}
		for _, p := range parts {
			if n, err := c.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		if got, want := b.String(), "a?\xc2?é\n"; got != want {
			t.Errorf("%q is written as %q, want %q", parts, got, want)
		}
	}
}
