package take_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"testing"
)

// deltaBomb is a pack of a blob and a delta on it whose result is said to have 100 GB.
func deltaBomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("PACK")
	for _, n := range []uint32{2, 2} {
		must(t, binary.Write(&b, binary.BigEndian, n))
	}
	compress := func(data []byte) {
		z := zlib.NewWriter(&b)
		_, err := z.Write(data)
		must(t, err)
		must(t, z.Close())
	}
	at := b.Len()
	base := bytes.Repeat([]byte{'a'}, 10)
	b.WriteByte(3<<4 | byte(len(base)))
	compress(base)
	delta := []byte{byte(len(base))}
	size := uint64(100 << 30)
	for size > 0x7f {
		delta = append(delta, byte(size)|0x80)
		size >>= 7
	}
	delta = append(delta, byte(size), 0x90, 10) // copy ten bytes
	off := b.Len() - at
	b.WriteByte(6<<4 | byte(len(delta)))
	b.WriteByte(byte(off))
	compress(delta)
	sum := sha1.Sum(b.Bytes())
	b.Write(sum[:])
	return b.Bytes()
}
