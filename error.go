package banger

import (
	"context"
	"errors"
	"fmt"
)

// Code classifies an error for programs. Codes are stable: the API sends them,
// and they decide the CLI's exit status.
type Code string

// The only codes there are.
const (
	CodeInvalid     Code = "invalid"     // the request can never succeed as it is
	CodeForbidden   Code = "forbidden"   // this user may not do that
	CodeNotFound    Code = "not_found"   // no such VM, image, kernel
	CodeConflict    Code = "conflict"    // name taken, ambiguous prefix, image in use
	CodeNotRunning  Code = "not_running" // the VM must run for this
	CodeUnavailable Code = "unavailable" // the host or a mirror lacks something; trying again may work
	CodeTimeout     Code = "timeout"     // something didn't answer in time
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

// Error returns the observed fact alone; the CLI adds hint and operation.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, for callers that branch on a sentinel.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error. What its %w verbs format is found by errors.Is and errors.As.
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

// IsDown reports whether err says of a VM that it doesn't run, or isn't there: its guest
// can't be reached by trying again.
func IsDown(err error) bool {
	code := CodeOf(err)
	return code == CodeNotRunning || code == CodeNotFound
}

// ErrEnding is in the chain of an error when a daemon that is ending leaves the
// work to the next one.
var ErrEnding = errors.New("the daemon is ending")

// ErrKilled is in the chain of every error that Killed made.
var ErrKilled = errors.New("killed")

// Killed marks err as caused by somebody who killed a process of ours. Such an error
// says nothing against the template that the process was started from.
func Killed(err error) error { return killed{err} }

// Excuse marks err, which the end of a machine caused, as Killed if the machine was
// killed. So it does if nobody saw the end: then its shim was killed, too.
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
// chain. A chain without one is our own bug; then the whole text is shown, as
// CodeInternal.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(CodeInternal, "%w", err)
}

// During returns err as a user sees it: what was being done, then the fact, with
// code, hint and operation of the first Error in its chain. In a chain without one
// the end of a context is CodeCanceled or CodeTimeout, all else CodeInternal.
// During of nil is nil.
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
