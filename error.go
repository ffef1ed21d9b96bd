package banger

import (
	"context"
	"errors"
	"fmt"
)

// Code classifies an error for programs. Codes are stable: they stand on the
// wire and decide the CLI's exit status.
type Code string

// The only codes there are.
const (
	CodeInvalid     Code = "invalid"     // the request can never succeed as it is
	CodeNotFound    Code = "not_found"   // no such VM, image, kernel
	CodeConflict    Code = "conflict"    // name taken, ambiguous prefix, image in use
	CodeNotRunning  Code = "not_running" // the VM must run for this
	CodeUnavailable Code = "unavailable" // the host or a mirror lacks something; trying again may work
	CodeTimeout     Code = "timeout"     // something didn't answer within its bound
	CodeCanceled    Code = "canceled"    // the client went away or asked to stop
	CodeInternal    Code = "internal"    // our own bug
)

// Error is an error a user may see: what was observed, and what to do about it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`        // the observed fact, with the names involved
	Hint    string `json:"hint,omitempty"` // what to do, when we know
	Op      string `json:"op,omitempty"`   // operation id, filled in by the engine
	cause   error
}

// Error returns the observed fact alone; the surface adds hint and operation.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, for callers that branch on a sentinel.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error. Its %w verbs keep the causes reachable.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if _, several := err.(interface{ Unwrap() []error }); several {
		cause = err
	}
	return &Error{Code: code, Message: err.Error(), cause: cause}
}

// WithHint returns a copy that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// CodeOf returns the code of the first Error in err's chain, CodeInternal for
// any other error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// ErrKilled is in the chain of every error that Killed made.
var ErrKilled = errors.New("killed")

// Killed returns err as that of a process of ours which somebody ended: what it was
// started from has no part in that.
func Killed(err error) error { return killed{err} }

// Excuse returns an error that a machine's end caused as Killed, if x is such an end,
// or one that nobody saw: then the shim beside it was killed, too.
func (x Exit) Excuse(err error) error {
	if x.Kind == ExitKilled || x.Kind == ExitUnknown {
		return Killed(err)
	}
	return err
}

type killed struct{ error }

func (k killed) Unwrap() error      { return k.error }
func (killed) Is(target error) bool { return target == ErrKilled }

// AsError returns what a user may see of err, which isn't nil: the first Error in its
// chain. An error nobody meant for a user is our own bug, and its whole text the best
// report of it.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(CodeInternal, "%w", err)
}

// During returns err as a user sees it: what was being done, then the fact, with
// code, hint and operation of the first Error in its chain. Of other errors the
// end of a context is CodeCanceled or CodeTimeout, the rest CodeInternal. It is
// nil for nil.
func During(doing string, err error) error {
	if err == nil {
		return nil
	}
	code := CodeOf(err)
	inner, ok := errors.AsType[*Error](err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled):
		code = CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = CodeTimeout
	}
	out := Errorf(code, "%s: %w", doing, err)
	if ok {
		out.Hint, out.Op = inner.Hint, inner.Op
	}
	return out
}
