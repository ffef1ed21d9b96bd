package cli

import (
	"bufio"
	"bytes"
	"io"
	"testing"
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
