package debian

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"strings"
)

const maxLine = 1 << 20

// Stanzas calls each for every paragraph of a control file (deb822(5)) with the values
// of its fields. The lines of a value are joined by newlines, without the blanks around
// them. The map may be used until each returns.
func Stanzas(r io.Reader, each func(map[string]string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	stanza := map[string]string{}
	key, value := "", []byte(nil) // of the field that is being read
	put := func() {
		if key != "" {
			stanza[key] = string(value)
		}
		key, value = "", value[:0]
	}
	end := func() error {
		put()
		defer clear(stanza)
		if len(stanza) == 0 {
			return nil
		}
		return each(stanza)
	}
	for lines.Scan() {
		line := bytes.TrimRight(lines.Bytes(), " \t\r")
		switch {
		case len(line) == 0:
			if err := end(); err != nil {
				return err
			}
		case line[0] == '#': // a comment, for a person
		case line[0] == ' ' || line[0] == '\t':
			value = append(append(value, '\n'), bytes.TrimLeft(line, " \t")...)
		default:
			put()
			name, rest, ok := bytes.Cut(line, []byte(":"))
			if ok {
				key, value = string(name), append(value, bytes.TrimLeft(rest, " \t")...)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return end()
}

// Stanza returns the first paragraph of a control file; see Stanzas.
func Stanza(text string) map[string]string {
	first := map[string]string{}
	_ = Stanzas(strings.NewReader(text), func(s map[string]string) error {
		maps.Copy(first, s)
		return io.EOF // read no further
	})
	return first
}
