package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"banger"
)

// stream runs op and answers with its progress, one line an event, then its
// result or error. Until the first event the answer hasn't begun, so an error
// without any progress still has its HTTP status.
func stream[T any](w http.ResponseWriter, op func(banger.Progress) (T, error)) error {
	lines := &lineWriter{w: w}
	result, err := told(lines, op)
	if err != nil && !lines.begun {
		return err
	}
	if err != nil {
		lines.write(line{Error: banger.AsError(err)})
		return nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	lines.write(line{Result: data})
	return nil
}

// told runs op and writes its events beside it. Nothing is being written any
// more when it returns, or panics.
func told[T any](lines *lineWriter, op func(banger.Progress) (T, error)) (T, error) {
	events := make(chan banger.Event, 64)
	over, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		for {
			select {
			case e := <-events:
				lines.write(line{Event: &e})
			case <-over:
				for len(events) > 0 {
					e := <-events
					lines.write(line{Event: &e})
				}
				return
			}
		}
	}()
	defer func() { close(over); <-written }()
	return op(func(e banger.Event) {
		select {
		case events <- e:
		default: // a slow reader loses progress; an operation never waits for it
		}
	})
}

// lineWriter writes lines as they come. A client that left is noticed by the
// request's context, so errors are nobody's business here.
type lineWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lineWriter) write(v line) {
	l.begin()
	_ = json.NewEncoder(l.w).Encode(v)
	_ = http.NewResponseController(l.w).Flush()
}

func (l *lineWriter) begin() {
	if l.begun {
		return
	}
	l.begun = true
	l.w.Header().Set("Content-Type", ndjson)
	l.w.WriteHeader(http.StatusOK)
}

// maxLine bounds one line of a stream as the client reads it.
const maxLine = 1 << 20

// readStream is the other end: it hands the events to p and decodes the result.
func readStream(r io.Reader, result any, p banger.Progress) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for sc.Scan() {
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return fmt.Errorf("progress of the daemon: %w", err)
		}
		switch {
		case l.Error != nil:
			return l.Error
		case l.Result != nil:
			return json.Unmarshal(l.Result, result)
		case l.Event != nil && p != nil:
			p(*l.Event)
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	return errors.Join(errLost, io.ErrUnexpectedEOF)
}
