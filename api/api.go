// Package api carries the daemon's services over a unix socket: a Server that
// offers a VMService and a Catalog as HTTP and JSON, and a Client that is both
// again on the other side. The domain's own types stand on the wire.
//
// It owns the route table, who may use it, and the form of errors and
// progress. It refuses to know what a VM is made of, how a daemon is started,
// and what flows through a guest's channel: those bytes are copied unread, or don't
// come by here at all (see passing).
package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"unicode/utf8"

	"banger"
)

// maxBody bounds a JSON request; maxAnswer a JSON answer read by the client.
const (
	maxBody   = 4 << 20
	maxAnswer = 64 << 20
)

// ndjson is the media type of a stream of progress: one JSON object per line,
// events first, then a result or an error.
const ndjson = "application/x-ndjson"

// line is one line of such a stream, and, with only Error set, every error.
type line struct {
	Event  *banger.Event   `json:"event,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *banger.Error   `json:"error,omitempty"`
}

// createRequest is the body of POST /v1/vms.
type createRequest struct {
	Spec  banger.Spec `json:"spec"`
	Start bool        `json:"start"`
}

// pullRequest is the body of POST /v1/kernels.
type pullRequest struct {
	Name string `json:"name"`
}

// ExecRequest is the body of POST /v1/vms/{ref}/exec: a command for programs
// that want one answer and no stream.
type ExecRequest struct {
	Argv    []string `json:"argv"`
	Stdin   Bytes    `json:"stdin,omitzero"`
	Env     []string `json:"env,omitempty"`     // KEY=value
	Dir     string   `json:"dir,omitempty"`     // empty: the VM's workspace, else the user's home
	User    string   `json:"user,omitempty"`    // empty: root
	Timeout float64  `json:"timeout,omitempty"` // seconds; 0: as long as the client stays
}

// ExecAnswer is its answer. Output is kept up to ExecOutput bytes a stream;
// what is beyond is read, dropped and counted.
type ExecAnswer struct {
	Exit    int    `json:"exit"`
	Signal  string `json:"signal,omitempty"`
	Error   string `json:"error,omitempty"` // why it never ran
	Stdout  Bytes  `json:"stdout"`
	Stderr  Bytes  `json:"stderr"`
	Dropped int64  `json:"dropped,omitempty"` // bytes of both streams left out
	// TimedOut says that Timeout ended it; Exit is 124 then, as of timeout(1).
	TimedOut bool `json:"timed_out,omitempty"`
}

// ExecOutput is how much of each output stream an ExecAnswer holds.
const ExecOutput = 1 << 20

// Bytes is a JSON string when it is UTF-8 text, else {"base64": "…"}, so that
// people read text and programs lose nothing.
type Bytes []byte

type encoded struct {
	Base64 string `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(encoded{base64.StdEncoding.EncodeToString(b)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		err := json.Unmarshal(data, &s)
		*b = Bytes(s)
		return err
	}
	var e encoded
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(e.Base64)
	*b = raw
	return err
}

// status is the HTTP status of a code. Programs branch on the code; the status
// is for curl and proxies.
func status(code banger.Code) int {
	switch code {
	case banger.CodeInvalid:
		return http.StatusBadRequest
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
