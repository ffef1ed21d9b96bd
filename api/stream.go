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
	events := make(chan banger.Event, 64)
	opened := make(chan bool)
	over := make(chan struct{})
	go func() {
		lines := &lineWriter{w: w}
		defer func() { opened <- lines.begun }()
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
	result, err := op(func(e banger.Event) {
		select {
		case events <- e:
		default: // a slow reader loses progress; an operation never waits for it
		}
	})
	close(over)
	begun := <-opened
	if err != nil && !begun {
		return err
	}
	lines := &lineWriter{w: w, begun: begun}
	if err != nil {
		lines.write(line{Error: wire(err)})
		return nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	lines.write(line{Result: data})
	return nil
}

// lineWriter writes lines as they come. A client that left is noticed by the
// request's context, so errors are nobody's business here.
type lineWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lineWriter) write(v line) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", ndjson)
		l.w.WriteHeader(http.StatusOK)
	}
	_ = json.NewEncoder(l.w).Encode(v)
	_ = http.NewResponseController(l.w).Flush()
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
