package xz_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os/exec"
	"strings"
	"testing"

	writer "github.com/ulikunitz/xz"

	"banger/fetch/xz"
)

func packed(t testing.TB, text string, window int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := writer.WriterConfig{DictCap: window, BlockSize: 1 << 16}.NewWriter(&b)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReader(t *testing.T) {
	text := strings.Repeat("content ", 1<<15)
	one := packed(t, text, 1<<16)
	for name, c := range map[string]struct {
		data   []byte
		window int64
		want   string // "" for an error
	}{
		"one stream":   {one, 1 << 16, text},
		"two streams":  {append(bytes.Clone(one), one...), 1 << 16, text + text},
		"large window": {packed(t, text, 1<<20), 1 << 16, ""},
		"cut off":      {one[:len(one)-1], 1 << 16, ""},
		"damaged":      {append(bytes.Clone(one[:len(one)/2]), one[len(one)/2+1:]...), 1 << 16, ""},
		"nothing":      {nil, 1 << 16, ""},
	} {
		r, err := xz.NewReader(bytes.NewReader(c.data), c.window)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if (err != nil) != (c.want == "") || err == nil && string(got) != c.want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// What xz(1) writes in several blocks, with their sizes before them, is read.
func TestProgramsOutput(t *testing.T) {
	program, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("xz is missing")
	}
	text := strings.Repeat("content ", 1<<15)
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		cmd := exec.Command(program, "-c", "-T2", "--block-size=65536", "-C", check, "--lzma2=dict=64KiB")
		cmd.Stdin = strings.NewReader(text)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		r, err := xz.NewReader(bytes.NewReader(packed), 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("check %s: %d of %d bytes, %v", check, len(got), len(text), err)
		}
	}
}

// Sizes that aren't those of the data are refused, though their checksums fit.
func TestSizes(t *testing.T) {
	le := binary.LittleEndian
	index := packed(t, "content", 1<<16)
	foot := index[len(index)-12:]
	end := len(index) - 12 - 4
	start := end + 4 - int(le.Uint32(foot[4:])+1)*4
	index[start+3] ^= 1 // behind a zero, the number of blocks and the first one's packed size
	le.PutUint32(index[end:], crc32.ChecksumIEEE(index[start:end]))

	program, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("xz is missing")
	}
	cmd := exec.Command(program, "-c", "-T2", "--lzma2=dict=64KiB")
	cmd.Stdin = strings.NewReader("content")
	block, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	crc := 12 + int(block[12]+1)*4 - 4
	block[14] ^= 1 // behind the header's size and flags: its packed size
	le.PutUint32(block[crc:], crc32.ChecksumIEEE(block[12:crc]))
	for want, data := range map[string][]byte{"its index lists other blocks": index, "wrong size": block} {
		r, err := xz.NewReader(bytes.NewReader(data), 1<<16)
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Whatever comes, what is read whole is what xz(1) reads, within the bound of memory.
func FuzzReader(f *testing.F) {
	f.Add(packed(f, "content", 1<<16))
	f.Add(append(packed(f, "one", 1<<16), packed(f, "two", 1<<16)...))
	program, _ := exec.LookPath("xz")
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		r, err := xz.NewReader(bytes.NewReader(data), 1<<20)
		if err != nil {
			return
		}
		got, err := io.ReadAll(io.LimitReader(r, most))
		if err != nil || len(got) == most || program == "" {
			return
		}
		reference := exec.Command(program, "-dc")
		reference.Stdin = bytes.NewReader(data)
		if want, err := reference.Output(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, where xz has %d, %v", len(got), len(want), err)
		}
	})
}
