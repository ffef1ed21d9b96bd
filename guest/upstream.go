package guest

import (
	"encoding/binary"
	"io"
)

// input is where a session's stdin goes on.
type input uint8

const (
	inputUnknown input = iota // the session was started before: the agent's answer says it
	inputOpen                 // stdin is sent as it is read
	inputNone                 // the command takes none
)

// upstream is what must reach the agent, including what was sent but not confirmed.
type upstream struct {
	input   input
	stdin   *Store
	base    int64 // offset of the first byte in stdin
	sent    int64 // offset after the last byte that was sent on any stream
	got     int64 // offset after the last byte that the agent is known to have
	eof     bool
	signals []string
	sigBase int64 // index of signals[0]
	size    *WinSize
	sizes   int64    // how often size was set
	acks    [2]int64 // output delivered
	closed  [2]bool  // outputs nobody reads
	over    bool     // nothing more will be sent
}

// stage is how far one stream of a session is.
type stage uint8

const (
	asked    stage = iota // the request was sent; stdin waits for the answer
	eager                 // likewise, but the session may begin with this stream, so stdin is sent at once
	answered              // the agent has said where stdin and output go on
	broken                // the stream has ended
)

// sent is how much of an upstream was sent on one stream.
type sent struct {
	stage  stage
	stdin  int64 // offset
	eof    bool
	signal int64
	sizes  int64
	acks   [2]int64
	closed [2]bool
}

// begin returns the state for a new stream.
func (up *upstream) begin(started bool) *sent {
	s := &sent{stage: eager, stdin: up.base, acks: up.acks}
	if started {
		s.stage = asked
	}
	return s
}

// done reports whether nothing more goes into a stream.
func (up *upstream) done(s *sent) bool { return up.over || s.stage == broken }

// learn takes from the agent's answer where stdin of a session that was started before goes on.
func (up *upstream) learn(at Attached, wanted bool) {
	up.sigBase = max(at.Signals, 0)
	up.base = max(at.Stdin, 0)
	up.sent = up.base
	up.input = inputNone
	if at.TakesStdin && wanted {
		up.input = inputOpen
	}
}

// attached takes from the agent's answer what it has of all that was sent; out is
// how much output there was so far.
func (up *upstream) attached(at Attached, out [2]int64, s *sent) error {
	up.acks, s.acks = out, out
	s.stdin = max(s.stdin, up.base)
	s.stage = answered
	if up.input == inputOpen {
		if err := up.taken(at.Stdin, s); err != nil {
			return err
		}
	}
	if at.Signals < up.sigBase || at.Signals > up.sigBase+int64(len(up.signals)) {
		return Errorf(CodeProtocol, "the guest took %d signals", at.Signals)
	}
	s.signal = at.Signals
	return nil
}

// taken notes that the agent has stdin up to an offset: no need to send that again.
func (up *upstream) taken(offset int64, s *sent) error {
	if offset > up.sent {
		return Errorf(CodeProtocol, "the guest confirms stdin up to %d, but was sent %d bytes", offset, up.sent)
	}
	s.stdin, up.got = max(s.stdin, offset), max(up.got, offset)
	return nil
}

// frames appends the frames that weren't sent on this stream yet.
func (up *upstream) frames(buf []byte, s *sent) []byte {
	if up.acks != s.acks {
		s.acks = up.acks
		buf = AppendFrame(buf, Frame{Type: FrameAck, Offset: up.acks[0],
			Data: binary.BigEndian.AppendUint64(nil, uint64(up.acks[1]))})
	}
	switch s.stage {
	case asked, broken:
		return buf
	case answered:
		buf = up.controls(buf, s)
	case eager:
	}
	if up.input != inputOpen {
		return buf
	}
	if pending := up.stdin.At(int(s.stdin-up.base), BulkData); len(pending) > 0 {
		buf = AppendFrame(buf, Frame{Type: FrameStdin, Offset: s.stdin, Data: pending})
		s.stdin += int64(len(pending))
		up.sent = max(up.sent, s.stdin)
	} else if up.eof && !s.eof {
		s.eof = true
		buf = AppendFrame(buf, Frame{Type: FrameStdinEOF, Offset: s.stdin})
	}
	return buf
}

// controls appends sizes, signals and closed outputs.
func (up *upstream) controls(buf []byte, s *sent) []byte {
	if up.sizes != s.sizes {
		s.sizes = up.sizes
		size := binary.BigEndian.AppendUint16(nil, up.size.Rows)
		size = binary.BigEndian.AppendUint16(size, up.size.Cols)
		buf = AppendFrame(buf, Frame{Type: FrameResize, Data: size})
	}
	for ; s.signal < up.sigBase+int64(len(up.signals)); s.signal++ {
		name := up.signals[s.signal-up.sigBase]
		buf = AppendFrame(buf, Frame{Type: FrameSignal, Offset: s.signal, Data: []byte(name)})
	}
	for i, closed := range up.closed {
		if closed && !s.closed[i] {
			s.closed[i] = true
			buf = AppendFrame(buf, Frame{Type: FrameClose, Offset: int64(i + 1)})
		}
	}
	return buf
}

// readStdin fills the window of stdin bytes the agent hasn't confirmed.
func (f *follow) readStdin() {
	for {
		f.mu.Lock()
		room := f.up.stdin.Space(BulkData)
		for len(room) == 0 && !f.up.over {
			f.wake.Wait()
			room = f.up.stdin.Space(BulkData)
		}
		over := f.up.over
		f.mu.Unlock()
		if over {
			return
		}
		n, err := 0, io.EOF
		if f.io.Stdin != nil {
			n, err = f.io.Stdin.Read(room)
		}
		f.mu.Lock()
		f.up.stdin.Added(n)
		// An error of the reader counts as its end: the command sees end of file.
		f.up.eof = err != nil
		f.wake.Broadcast()
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// maxSignals bounds the signals kept for a stream that is down.
const maxSignals = 256

func (f *follow) readControls(done <-chan struct{}) {
	resize, signals := f.io.Resize, f.io.Signals
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			f.mu.Lock()
			f.up.size = &size
			f.up.sizes++
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			f.mu.Lock()
			if len(f.up.signals) < maxSignals {
				f.up.signals = append(f.up.signals, name)
			}
		case <-done:
			return
		}
		f.wake.Broadcast()
		f.mu.Unlock()
	}
}
