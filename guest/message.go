package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxMessage bounds a Request and a Response, in bytes of JSON.
const MaxMessage = 256 << 10

// The operations an agent knows.
const (
	OpConfigure = "configure" // Identity → Ready
	OpFreeze    = "freeze"    // → nothing: the guest is at its freeze point until it is configured
	OpHealth    = "health"    // nothing or HealthRequest → Health
	OpClock     = "clock"     // Clock → nothing
	OpShutdown  = "shutdown"  // ShutdownRequest → nothing
	OpWatch     = "watch"     // → nothing, then FrameNotice until either side closes
	OpExec      = "exec"      // ExecRequest → Attached, then the session's frames
	OpSessions  = "sessions"  // → []Session
	OpOutput    = "output"    // OutputRequest → nothing, then frames of output
	OpSignal    = "signal"    // SignalRequest → nothing
	OpForget    = "forget"    // SessionRequest → nothing
	OpDial      = "dial"      // flow.DialRequest → nothing, then a flow.Conn
	OpListen    = "listen"    // flow.ListenRequest → flow.Listens, then FrameNotice with a flow.Arrival until either side closes
	OpAccept    = "accept"    // flow.AcceptRequest → nothing, then a flow.Conn
	OpPorts     = "ports"     // → []flow.Port
	OpEcho      = "echo"      // → nothing, then every byte comes back until the client closes
)

// Request opens a stream: the versions the client speaks, and one operation.
type Request struct {
	Min int    `json:"min"`
	Max int    `json:"max"`
	Op  string `json:"op"`
	// Agent is the Incarnation of the agent that the request is for; any other refuses it.
	// Empty: any agent.
	Agent string          `json:"agent,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Response answers a Request. From here on both sides use Version.
type Response struct {
	Version int             `json:"version"`
	Error   *Error          `json:"error,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// ExecRequest starts a session or takes one up again. The first output bytes
// may follow its Response at once, and stdin may precede it.
type ExecRequest struct {
	Spec   ExecSpec `json:"spec"`             // with Attach only its ID counts
	Attach bool     `json:"attach,omitempty"` // never start, only take up again
	Follow bool     `json:"follow,omitempty"` // frames follow; else the stream ends after the Response
	Stdout int64    `json:"stdout"`           // bytes the client already has; -1: send all that is kept
	Stderr int64    `json:"stderr"`
	// Client names the follower, Try counts its streams. A delayed stream that arrives after
	// a later one of the same client is refused.
	Client string `json:"client,omitempty"`
	Try    int    `json:"try,omitempty"`
}

// Attached is the answer to an ExecRequest: where each stream goes on.
type Attached struct {
	PID int  `json:"pid"`
	TTY bool `json:"tty,omitempty"`
	// TakesStdin says that the command reads what the client sends.
	TakesStdin bool `json:"takes_stdin,omitempty"`

	Stdin     int64       `json:"stdin"`      // bytes the session has taken
	Signals   int64       `json:"signals"`    // signal frames it has taken
	Stdout    int64       `json:"stdout"`     // offset of the next byte sent
	Stderr    int64       `json:"stderr"`     //
	StdoutGap int64       `json:"stdout_gap"` // bytes dropped before it that this client never saw
	StderrGap int64       `json:"stderr_gap"` //
	Exit      *ExitStatus `json:"exit,omitempty"`
}

// Final is the payload of FrameExit: the status, and how many bytes each stream had in all,
// so that a client can check that it has everything.
type Final struct {
	Exit   ExitStatus `json:"exit"`
	Stdout int64      `json:"stdout"`
	Stderr int64      `json:"stderr"`
}

// HealthRequest says what of Health isn't wanted.
type HealthRequest struct {
	// NoInit leaves Init out: the image's init is asked for it, which takes it 20 ms in
	// an emulated guest.
	NoInit bool `json:"no_init,omitempty"`
}

// SessionRequest names a session.
type SessionRequest struct {
	ID string `json:"id"`
}

// SignalRequest sends a signal to a session's processes.
type SignalRequest struct {
	ID     string `json:"id"`
	Signal string `json:"signal"` // without SIG: "TERM"
}

// ShutdownRequest asks the guest's init to end the machine.
type ShutdownRequest struct {
	Verb string `json:"verb"` // "poweroff" or "reboot"
}

// The codes of an Error.
const (
	CodeInvalid     = "invalid"     // the request can't succeed as it is
	CodeNotFound    = "not_found"   // no such session, no such file
	CodeConflict    = "conflict"    // not in this state
	CodeVersion     = "version"     // no common protocol version
	CodeUnavailable = "unavailable" // a bound of the agent is reached, or it isn't configured
	CodeNotStarted  = "not_started" // the command could not be started
	CodeSuperseded  = "superseded"  // another client took the session over
	CodeProtocol    = "protocol"    // the other side broke the protocol
	CodeLost        = "lost"        // output was lost, or it isn't known whether a command ran
	CodeReplaced    = "replaced"    // the agent that the request is for was replaced
	CodeInternal    = "internal"
)

// Error is an error that one side sends to the other, or the client's error for a guest
// that breaks the protocol.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first Error in err's chain, CodeInternal for
// any other error and "" for nil.
func CodeOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// Accept chooses the version both sides speak: the newest common one.
func (r Request) Accept() (int, error) {
	v := min(r.Max, Version)
	if v < r.Min || v < MinVersion {
		return 0, Errorf(CodeVersion, "the agent speaks protocol versions %d to %d, the client %d to %d",
			MinVersion, Version, r.Min, r.Max)
	}
	return v, nil
}

// AppendRequest appends the wire form of an operation to dst.
func AppendRequest(dst []byte, op string, body any) ([]byte, error) {
	return appendRequest(dst, op, "", body)
}

// appendRequest is AppendRequest for one incarnation of the agent.
func appendRequest(dst []byte, op, agent string, body any) ([]byte, error) {
	raw, err := marshalBody(body)
	if err != nil {
		return dst, err
	}
	return appendMessage(dst, Request{Min: MinVersion, Max: Version, Op: op, Agent: agent, Body: raw})
}

// ReadRequest reads the Request at the beginning of a stream, and no byte more.
func ReadRequest(r io.Reader) (Request, error) {
	var req Request
	err := readMessage(r, &req)
	return req, err
}

// AppendResponse appends the wire form of an answer to dst: of body, or of err
// when there is one.
func AppendResponse(dst []byte, version int, body any, err error) ([]byte, error) {
	resp := Response{Version: version}
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			e = &Error{Code: CodeInternal, Message: err.Error()}
		}
		resp.Error = e
		return appendMessage(dst, resp)
	}
	if resp.Body, err = marshalBody(body); err != nil {
		return dst, err
	}
	return appendMessage(dst, resp)
}

// ReadResponse reads the agent's answer and decodes its body into body, which
// may be nil. The error is the agent's own when it sent one.
func ReadResponse(r io.Reader, body any) error {
	var resp Response
	if err := readMessage(r, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		return resp.Error
	}
	if resp.Version < MinVersion || resp.Version > Version {
		return Errorf(CodeProtocol, "the agent chose protocol version %d, which was not offered", resp.Version)
	}
	if body == nil {
		return nil
	}
	if err := json.Unmarshal(resp.Body, body); err != nil {
		return Errorf(CodeProtocol, "the agent's answer can't be read: %v", err)
	}
	return nil
}

func marshalBody(body any) (json.RawMessage, error) {
	if body == nil {
		return nil, nil
	}
	return json.Marshal(body)
}

func appendMessage(dst []byte, v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	if len(raw) > MaxMessage {
		return dst, Errorf(CodeInvalid, "a message of %d bytes is over the limit of %d", len(raw), MaxMessage)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(raw)))
	return append(dst, raw...), nil
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return Errorf(CodeProtocol, "a message of %d bytes is over the limit of %d", n, MaxMessage)
	}
	raw, err := readGrowing(r, int(n))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return Errorf(CodeProtocol, "a message can't be read: %v", err)
	}
	return nil
}

// readGrowing reads n bytes. It allocates memory only as they come, since n may be a lie.
func readGrowing(r io.Reader, n int) ([]byte, error) {
	var buf []byte
	for len(buf) < n {
		step := min(n-len(buf), max(4096, len(buf)))
		buf = slices.Grow(buf, step)
		got, err := io.ReadFull(r, buf[len(buf):len(buf)+step])
		buf = buf[:len(buf)+got]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return buf, nil
}
