package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"banger"
)

// Progress runs op and answers with its progress, one line an event, then its result or
// error. The answer begins with the first event: an error before that has its HTTP
// status.
func Progress[T any](w http.ResponseWriter, op func(banger.Progress) (T, error)) error {
	lines := &LineWriter{w: w}
	result, err := told(lines, op)
	if err != nil && (!lines.begun || errors.Is(err, banger.ErrEnding)) {
		return err
	}
	if err != nil {
		lines.Write(Line{Error: banger.AsError(err)})
		return nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	lines.Write(Line{Result: data})
	return nil
}

// told runs op and writes its events meanwhile. Writing is over when it returns or
// panics.
func told[T any](lines *LineWriter, op func(banger.Progress) (T, error)) (T, error) {
	events := make(chan banger.Event, 64)
	over, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		for {
			select {
			case e := <-events:
				lines.Write(Line{Event: &e})
			case <-over:
				for len(events) > 0 {
					e := <-events
					lines.Write(Line{Event: &e})
				}
				return
			}
		}
	}()
	defer func() { close(over); <-written }()
	return op(func(e banger.Event) {
		select {
		case events <- e:
		default: // op never waits for a slow reader: that one misses events
		}
	})
}

// LineWriter writes lines as they come. It ignores errors: when the client leaves,
// the request's context ends.
type LineWriter struct {
	w     http.ResponseWriter
	begun bool
}

// NewLines returns a writer of lines as an answer.
func NewLines(w http.ResponseWriter) *LineWriter { return &LineWriter{w: w} }

// Begun reports whether the answer has begun: an error can't have its status any more.
func (l *LineWriter) Begun() bool { return l.begun }

// Write writes a line: a Line, or what looks like one.
func (l *LineWriter) Write(v any) {
	l.Begin()
	_ = json.NewEncoder(l.w).Encode(v)
	_ = http.NewResponseController(l.w).Flush()
}

// Begin begins the answer, before there is a line for it.
func (l *LineWriter) Begin() {
	if l.begun {
		return
	}
	l.begun = true
	l.w.Header().Set("Content-Type", LinesType)
	l.w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(l.w).Flush()
}

// maxLine bounds one line of a stream as the client reads it.
const maxLine = 1 << 20

// ReadStream reads what Progress wrote: it passes events to p and decodes the result.
func ReadStream(r io.Reader, result any, p banger.Progress) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for sc.Scan() {
		var l Line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return fmt.Errorf("progress of the daemon: %w", err)
		}
		switch {
		case l.Error != nil:
			return l.Error
		case l.Result != nil && result == nil:
			return nil
		case l.Result != nil:
			return json.Unmarshal(l.Result, result)
		case l.Event != nil && p != nil:
			p(*l.Event)
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	return errors.Join(ErrLost, io.ErrUnexpectedEOF)
}
