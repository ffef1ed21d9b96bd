package kmod

import (
	"bytes"
	"encoding/binary"
)

// The end of a signed module: the signature, a descriptor of 12 bytes whose last four
// are the signature's length in big-endian, and this line
// (include/linux/module_signature.h).
const (
	signatureMark    = "~Module signature appended~\n"
	signatureTrailer = 12
)

// Unsigned returns a module's file without its signature. A file without a valid one
// stays as it is.
func Unsigned(data []byte) []byte {
	body, signed := bytes.CutSuffix(data, []byte(signatureMark))
	if !signed || len(body) < signatureTrailer {
		return data
	}
	size := uint64(binary.BigEndian.Uint32(body[len(body)-4:])) + signatureTrailer
	if size > uint64(len(body)) {
		return data
	}
	return body[:uint64(len(body))-size]
}
