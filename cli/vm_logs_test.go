package cli

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"banger/guest"
)

// A console line that never ends is printed in pieces, and nothing of any is lost.
func TestReadLine(t *testing.T) {
	text := append(bytes.Repeat([]byte("x"), 1<<20), "\nshort\nno end"...)
	r := bufio.NewReaderSize(bytes.NewReader(text), 64<<10)
	var got []byte
	longest, ends := 0, 0
	for {
		line, err := readLine(r)
		got = append(got, line...)
		longest = max(longest, len(line))
		if bytes.HasSuffix(line, []byte("\n")) {
			ends++
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, text) || longest > 64<<10 || ends != 2 {
		t.Errorf("%d of %d bytes, the longest piece has %d, %d lines ended", len(got), len(text), longest, ends)
	}
}

// The last lines are those of both streams together, wherever pieces were cut.
func TestLastLines(t *testing.T) {
	for n, want := range map[int]string{-1: "a\nbb\nccc\nd", 0: "", 1: "d", 2: "ccc\nd", 3: "bb\nccc\nd", 9: "a\nbb\nccc\nd"} {
		pieces := []guest.Output{{Stream: "stdout", Data: []byte("a\nb")}, {Stream: "stderr", Data: []byte("b\nc")}, {Stream: "stdout", Offset: 3, Data: []byte("cc\n")}, {Stream: "stdout", Offset: 6, Data: []byte("d")}}
		got := ""
		for _, o := range lastLines(pieces, n) {
			got += string(o.Data)
		}
		if got != want {
			t.Errorf("the last %d lines are %q, want %q", n, got, want)
		}
	}
	if text := "one\ntwo\n"; beginning([]byte(text), 1) != 4 {
		t.Errorf("the last line of %q begins at %d", text, beginning([]byte(text), 1))
	}
}
