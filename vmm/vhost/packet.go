package vhost

import "encoding/binary"

// headerSize is that of a packet (virtio 1.2, 5.10.6), in bytes.
const headerSize = 44

// What a packet is.
const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCredit        = 6
	opCreditRequest = 7
)

const (
	typeStream = 1
	noReceive  = 1 // a flag of opShutdown: the sender won't read any more
	noSend     = 2 // likewise: it won't send any more
)

// header is a packet's: of the guest's, where it comes from and goes to the other way round.
type header struct {
	guest, host uint32 // ports
	size        uint32 // of the data behind it
	kind, op    uint16
	flags       uint32
	window      uint32 // how much the sender holds of a stream's data
	read        uint32 // how much of it has been read, modulo 2³²
}

// fromGuest decodes a packet that the guest sent.
func fromGuest(b *[headerSize]byte) (h header, ok bool) {
	le := binary.LittleEndian
	h = header{
		guest: le.Uint32(b[16:]), host: le.Uint32(b[20:]), size: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: le.Uint16(b[30:]),
		flags: le.Uint32(b[32:]), window: le.Uint32(b[36:]), read: le.Uint32(b[40:]),
	}
	return h, le.Uint64(b[:]) == guestCID && le.Uint64(b[8:]) == hostCID
}

// toGuest encodes a packet for the guest.
func (h header) toGuest() (b [headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[:], hostCID)
	le.PutUint64(b[8:], guestCID)
	le.PutUint32(b[16:], h.host)
	le.PutUint32(b[20:], h.guest)
	le.PutUint32(b[24:], h.size)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.window)
	le.PutUint32(b[40:], h.read)
	return b
}
