// Package wire is the form of requests and answers over HTTP: one JSON object, a
// list, lines of progress that end in a result or an error, or bytes; and of errors
// and their statuses. A route is a function of a request's type to its answer's, and
// knows both.
//
// It knows no route: what can be asked for, and of whom, is package api's.
package wire

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"time"

	"banger"
)

// maxBody bounds a JSON request; MaxAnswer a JSON answer read by the client.
const (
	maxBody   = 4 << 20
	MaxAnswer = 64 << 20
)

// Media types.
const (
	JSONType  = "application/json"
	LinesType = "application/x-ndjson"     // one JSON object a line: events, then a result or an error
	BytesType = "application/octet-stream" // anything
	TarType   = "application/x-tar"
)

// Line is one line of a stream of progress. Every error answer is one, too, with only Error set.
type Line struct {
	Event  *banger.Event   `json:"event,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *banger.Error   `json:"error,omitempty"`
}

// Results is a list on the wire. An empty one is [], never null.
type Results[T any] struct {
	Results []T `json:"results"`
}

// Status is the HTTP status of a code. Programs branch on the code; the status
// is for curl and proxies.
func Status(code banger.Code) int {
	switch code {
	case banger.CodeInvalid:
		return http.StatusBadRequest
	case banger.CodeForbidden:
		return http.StatusForbidden
	case banger.CodeNotFound:
		return http.StatusNotFound
	case banger.CodeConflict, banger.CodeNotRunning:
		return http.StatusConflict
	case banger.CodeUnavailable:
		return http.StatusServiceUnavailable
	case banger.CodeTimeout:
		return http.StatusGatewayTimeout
	case banger.CodeCanceled:
		return 499 // nginx's "client closed request"; nobody is left to read it
	}
	return http.StatusInternalServerError
}

// Answer writes v as the whole answer. It always returns nil: an error could not be
// answered any more.
func Answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", JSONType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
	return nil
}

// AnswerError writes an error as the whole answer.
func AnswerError(w http.ResponseWriter, err error) {
	e := banger.AsError(err)
	status := Status(e.Code)
	if _, ok := errors.AsType[tooLarge](err); ok {
		status = http.StatusRequestEntityTooLarge
	}
	_ = Answer(w, status, Line{Error: e})
}

// Uploaded answers with what do answers while it reads the body, or with its error.
func Uploaded(w http.ResponseWriter, r *http.Request, do func() error) error {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return err
	}
	if err := do(); err != nil {
		AnswerError(w, err)
	}
	// Closing a connection with unread bytes resets it, and the answer may be lost. So
	// let the client read the answer and stop sending.
	_ = rc.Flush()
	_ = rc.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, r.Body)
	return nil
}

// ReadError reads the error a daemon answered with.
func ReadError(resp *http.Response) error {
	var l Line
	// Don't wait for the end of the answer: the server may still be reading what we send.
	if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&l) == nil && l.Error != nil {
		return l.Error
	}
	return banger.Errorf(banger.CodeInternal, "the daemon answered %s without saying why", resp.Status)
}

// ErrLost marks that the daemon went away in the middle of a call.
var ErrLost = errors.New("the daemon went away")

// Timeout is what a request's timeout_ms says.
func Timeout(n int64) (time.Duration, error) {
	if n < 0 || n > math.MaxInt64/int64(time.Millisecond) {
		return 0, banger.Errorf(banger.CodeInvalid, "timeout_ms is %d: it must be a number of milliseconds, 0 for the default", n)
	}
	return time.Duration(n) * time.Millisecond, nil
}
