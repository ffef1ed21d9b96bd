package send_test

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"banger/guest/work"
	"banger/workspace/send"
)

// repeated is a text again and again, without end.
type repeated struct {
	text string
	at   int
	read int
}

// Read implements io.Reader.
func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c := copy(p[n:], r.text[r.at:])
		n, r.at = n+c, (r.at+c)%len(r.text)
	}
	r.read += n
	return n, nil
}

// A guest that lists what git doesn't, or without end, is refused, and early.
func TestHostileCopy(t *testing.T) {
	entry := "H 100644 " + strings.Repeat("ab", 20) + " 0\t"
	for name, c := range map[string]struct {
		list, want string
		most       int // bytes that are read
	}{
		"blanks of another kind": {"H 100644\nabc\n0\tx\x00", "git ls-files answered", 1 << 20},
		"a blank more":           {"H 100644  ab 0\tx\x00", "git ls-files answered", 1 << 20},
		"a mode that is none":    {"H abcdef " + strings.Repeat("ab", 20) + " 0\tx\x00", "git ls-files answered", 1 << 20},
		"a path without end":     {"x", "buffer full", 1 << 20},
		"paths without end":      {entry + strings.Repeat("x", 4000) + "\x00", "lists more than", 300 << 20},
		"files without end":      {entry + "x\x00", "lists more than", 300 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			from := &repeated{text: c.list}
			_, err := send.ReadCopy(bufio.NewReaderSize(io.MultiReader(strings.NewReader("{\"git\":true}\n"), from), work.MaxHead))
			if err == nil || !strings.Contains(err.Error(), c.want) || from.read > c.most {
				t.Errorf("after %d bytes: %v, want %q", from.read, err, c.want)
			}
		})
	}
}
