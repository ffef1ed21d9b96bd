package send_test

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// evilIndex writes an index that git's own tools refuse to make: one entry
// whose name is anything (gitformat-index(5)).
func evilIndex(t *testing.T, object, name string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(object)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("DIRC\x00\x00\x00\x02\x00\x00\x00\x01")
	entry := make([]byte, 40)
	binary.BigEndian.PutUint32(entry[24:], 0o100644)
	entry = append(entry, raw...)
	entry = binary.BigEndian.AppendUint16(entry, uint16(len(name)))
	entry = append(entry, name...)
	entry = append(entry, make([]byte, 8-len(entry)%8)...)
	b = append(b, entry...)
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}
