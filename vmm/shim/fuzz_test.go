package shim

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"banger"
	"banger/host/unixsock"
)

// However a console comes, in pieces or whole, its lines are the same, bounded and fit
// to be shown, and a last word is one that stands in them.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("[    1.5] reboot: Power down\r\n"), 3)
	f.Add([]byte("[   12.345678] Kernel panic - not syncing: VFS: Unable to mount root fs\n\x1b[2J\xff\xfe\n"), 1)
	f.Add([]byte("reboot: System halted\n"+strings.Repeat("x", 2000)+"\nreboot: Restarting system"), 16)
	f.Fuzz(func(t *testing.T, console []byte, size int) {
		read := func(size int) (all []string) {
			l := &lines{found: func(s string) { all = append(all, s) }}
			for piece := range slices.Chunk(console, size) {
				l.write(piece)
			}
			return all
		}
		whole := read(max(len(console), 1))
		if pieces := read(max(size, 1)); !slices.Equal(whole, pieces) {
			t.Errorf("whole %q, in pieces %q", whole, pieces)
		}
		for _, line := range whole {
			if len(line) > lastWords || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q is shown", line)
			}
			if kind := lastWord(line); kind != "" && !strings.Contains(line, "reboot: ") && kind != banger.ExitPanic {
				t.Errorf("%q is %s", line, kind)
			}
		}
	})
}

// A connection's first line is what it says, whatever comes after it comes through.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"op":"dial","control":true}`+"\n"), []byte("bytes\n"))
	f.Add([]byte("\n"), []byte{})
	f.Add(bytes.Repeat([]byte(" "), maxRequest), []byte("x"))
	f.Fuzz(func(t *testing.T, line, after []byte) {
		near, file, err := unixsock.Pair()
		if err != nil {
			t.Fatal(err)
		}
		far, err := unixsock.Take(file)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		defer near.Close()
		go func() {
			_, _ = far.Write(append(bytes.Clone(line), after...))
			_ = far.CloseWrite()
		}()
		_, rest, err := readRequest(near)
		if err != nil {
			return
		}
		more, err := io.ReadAll(near)
		_, want, _ := bytes.Cut(append(bytes.Clone(line), after...), []byte("\n"))
		if err != nil || !bytes.Equal(append(rest, more...), want) {
			t.Errorf("%q, then %q, %v; want %q", rest, more, err, want)
		}
	})
}
