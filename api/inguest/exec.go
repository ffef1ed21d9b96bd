package inguest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"banger"
	"banger/api/wire"
	"banger/guest"
)

var errNoArgv = banger.Errorf(banger.CodeInvalid, "argv is empty: there is nothing to run")

// exec runs a command for clients that want one answer.
func (s handlers) exec(ctx context.Context, r *http.Request, req ExecRequest) (ExecAnswer, error) {
	if len(req.Argv) == 0 {
		return ExecAnswer{}, errNoArgv
	}
	timeout, err := wire.Timeout(req.TimeoutMS)
	if err != nil {
		return ExecAnswer{}, err
	}
	vm, err := s.VM(ctx, r.PathValue("vm"))
	if err != nil {
		return ExecAnswer{}, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return s.execIn(ctx, vm, req)
}

func (s handlers) execIn(ctx context.Context, vm banger.VM, req ExecRequest) (ExecAnswer, error) {
	c := s.guest(vm)
	spec := guest.ExecSpec{ID: guest.NewID(), Argv: req.Argv, Env: req.Env, Dir: req.Dir, User: req.User, Stdin: len(req.Stdin) > 0}
	if spec.Dir == "" {
		spec.Dir = vm.Spec.Workspace
	}
	var out, errs guest.Kept
	st, err := c.Exec(ctx, spec, guest.IO{Stdin: bytes.NewReader(req.Stdin), Stdout: &out, Stderr: &errs})
	a := ExecAnswer{Exit: st.Code, Signal: st.Signal, Error: st.Error}
	if err != nil && ctx.Err() != nil {
		kill(context.WithoutCancel(ctx), c, spec.ID)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return a, banger.Errorf(banger.CodeCanceled, "the client left; the command was killed")
		}
		a = ExecAnswer{Exit: 124, TimedOut: true}
		err = nil
	}
	a.Stdout, a.Stderr, a.Dropped = out.Bytes, errs.Bytes, out.Dropped+errs.Dropped
	return a, guestError(err)
}

// guest is the client of a VM's guest.
func (s handlers) guest(vm banger.VM) *guest.Client {
	return &guest.Client{
		Dial:  func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, vm.ID) },
		Final: banger.IsDown,
	}
}

// kill ends a command nobody waits for any more, if the guest can still be reached.
func kill(ctx context.Context, c *guest.Client, id string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = c.Signal(ctx, id, "KILL")
}

// guestError makes a banger.Error of an error from the agent.
func guestError(err error) error {
	g, ok := errors.AsType[*guest.Error](err)
	if !ok {
		return err
	}
	code := banger.CodeUnavailable
	switch g.Code {
	case guest.CodeInvalid, guest.CodeNotFound, guest.CodeConflict:
		code = banger.Code(g.Code)
	}
	return banger.Errorf(code, "the guest's agent: %w", err)
}
