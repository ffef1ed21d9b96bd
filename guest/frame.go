package guest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// FrameType says what a frame carries. A type has one direction.
type FrameType byte

// From the client.
const (
	FrameStdin     FrameType = 1 // Offset, Data
	FrameStdinEOF  FrameType = 2 // Offset: the number of bytes there were
	FrameAck       FrameType = 3 // Offset: stdout bytes safe with the client; Data: 8 bytes, the same of stderr
	FrameResize    FrameType = 4 // Data: rows, columns, 2 bytes each
	FrameSignal    FrameType = 5 // Offset: how many came before; Data: name without SIG
	FrameClose     FrameType = 6 // Offset: 1 stdout, 2 stderr: nobody reads it any more, as when a pipe's reader dies
	FrameForget    FrameType = 7 // the client has everything, the session may go
	FrameNoticeAck FrameType = 8 // Offset of the notice
)

// From the agent.
const (
	FrameStdout   FrameType = 65 // Offset, Data
	FrameStderr   FrameType = 66 // Offset, Data
	FrameStdinAck FrameType = 67 // Offset: stdin bytes the command's pipe has taken
	FrameExit     FrameType = 68 // Data: Final; the last frame
	FrameError    FrameType = 69 // Data: Error; the last frame
	FrameNotice   FrameType = 70 // Offset: counts up; Data: Notice
)

// Sizes of the frame protocol, in bytes. A whole frame is at most 32 KiB, so
// that it fits one frame of the link below.
const (
	FrameHeader = 13 // type, length of Data (4, big endian), Offset (8)
	MaxData     = 32<<10 - FrameHeader
	StdinWindow = 256 << 10 // stdin a client may send beyond the last FrameStdinAck
)

// Frame is one unit after the Response.
type Frame struct {
	Type   FrameType
	Offset int64
	Data   []byte
}

// AppendFrame appends the wire form of f to dst. Data over MaxData is a bug of
// the caller.
func AppendFrame(dst []byte, f Frame) []byte {
	if len(f.Data) > MaxData {
		panic(fmt.Sprintf("guest: frame of %d bytes", len(f.Data)))
	}
	dst = append(dst, byte(f.Type))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Data)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(f.Offset))
	return append(dst, f.Data...)
}

// FrameReader reads frames from a stream with one buffer of its own.
type FrameReader struct {
	r    io.Reader
	head [FrameHeader]byte
	buf  []byte
}

// NewFrameReader reads frames from r, which should be buffered.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Next returns the next frame; its Data is valid until the following call. A
// frame that breaks the protocol is an Error with CodeProtocol, a broken stream
// is whatever the reader said, io.EOF only between frames.
func (fr *FrameReader) Next() (Frame, error) {
	if _, err := io.ReadFull(fr.r, fr.head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Type: FrameType(fr.head[0]), Offset: int64(binary.BigEndian.Uint64(fr.head[5:]))}
	n := binary.BigEndian.Uint32(fr.head[1:])
	if n > MaxData {
		return Frame{}, Errorf(CodeProtocol, "a frame of %d bytes is over the limit of %d", n, MaxData)
	}
	if f.Offset < 0 {
		return Frame{}, Errorf(CodeProtocol, "a frame with a negative offset")
	}
	if n == 0 {
		return f, nil
	}
	if int(n) > len(fr.buf) {
		// Interactive streams stay at a page, bulk grows to the maximum once.
		fr.buf = make([]byte, max(4096, min(MaxData, 4*int(n))))
	}
	f.Data = fr.buf[:n]
	if _, err := io.ReadFull(fr.r, f.Data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return f, nil
}
