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

// Sizes of the frame protocol, in bytes.
const (
	FrameHeader = 13                   // type, length of Data (4, big endian), Offset (8)
	MaxData     = 32<<10 - FrameHeader // a longer frame isn't taken
	// BulkData is the most Data in a frame that is sent. With the header of package link it
	// makes 32 KiB, which a guest's port takes in one write.
	BulkData    = MaxData - 32
	StdinWindow = 256 << 10 // stdin a client may send beyond the last FrameStdinAck
)

// Frame is one unit after the Response.
type Frame struct {
	Type   FrameType
	Offset int64
	Data   []byte
}

// AppendFrame appends the wire form of f to dst. Data over MaxData is a bug of the caller.
func AppendFrame(dst []byte, f Frame) []byte {
	if len(f.Data) > MaxData {
		panic(fmt.Sprintf("guest: frame of %d bytes", len(f.Data)))
	}
	dst = append(dst, byte(f.Type))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Data)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(f.Offset))
	return append(dst, f.Data...)
}

// FrameReader reads frames from a stream through a buffer of its own: a page, or
// frameBuffer once there was a longer frame.
type FrameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // what was read and isn't taken yet
}

// frameBuffer holds two of the longest frames, so that a read may bring many.
const frameBuffer = 2 * (FrameHeader + MaxData)

// NewFrameReader returns a reader of frames from r. It may read more than it returns.
func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: r, buf: make([]byte, 4096)}
}

// Next returns the next frame; its Data is valid until the following call. A
// frame that breaks the protocol is an Error with CodeProtocol, a broken stream
// is whatever the reader said, io.EOF only between frames.
func (fr *FrameReader) Next() (Frame, error) {
	if err := fr.need(FrameHeader); err != nil {
		return Frame{}, err
	}
	head := fr.buf[fr.start:]
	f := Frame{Type: FrameType(head[0]), Offset: int64(binary.BigEndian.Uint64(head[5:]))}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxData {
		return Frame{}, Errorf(CodeProtocol, "a frame of %d bytes is over the limit of %d", n, MaxData)
	}
	if f.Offset < 0 {
		return Frame{}, Errorf(CodeProtocol, "a frame with a negative offset")
	}
	whole := FrameHeader + int(n)
	if err := fr.need(whole); err != nil {
		return Frame{}, err
	}
	if n > 0 {
		f.Data = fr.buf[fr.start+FrameHeader : fr.start+whole]
	}
	fr.start += whole
	return f, nil
}

// need reads until there are n bytes after start.
func (fr *FrameReader) need(n int) error {
	if fr.start == fr.end {
		fr.start, fr.end = 0, 0
	}
	if n > len(fr.buf)-fr.start {
		to := fr.buf
		if n > len(to) {
			to = make([]byte, frameBuffer)
		}
		fr.end = copy(to, fr.buf[fr.start:fr.end])
		fr.buf, fr.start = to, 0
	}
	for fr.end-fr.start < n {
		got, err := fr.r.Read(fr.buf[fr.end:])
		fr.end += got
		switch {
		case got > 0:
		case err == nil:
			return io.ErrNoProgress
		case err == io.EOF && fr.end > fr.start:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
	return nil
}
