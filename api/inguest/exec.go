package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math"
	"net"
	"net/http"
	"time"

	"banger"
	"banger/guest"
)

// exec runs a command for clients that want one answer. The command is killed
// when its time is over or the client leaves.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	req, err := body[ExecRequest](w, r)
	if err != nil {
		return err
	}
	if len(req.Argv) == 0 {
		return banger.Errorf(banger.CodeInvalid, "argv is empty: there is nothing to run")
	}
	if req.Timeout < 0 || math.IsNaN(req.Timeout) || req.Timeout > 1e9 {
		return banger.Errorf(banger.CodeInvalid, "timeout is %v: seconds are needed, 0 for none", req.Timeout)
	}
	ctx := r.Context()
	vm, err := s.VMs.VM(ctx, r.PathValue("ref"))
	if err != nil {
		return err
	}
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.Timeout*float64(time.Second)))
		defer cancel()
	}
	a, err := s.execIn(ctx, vm, req)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, a)
}

func (s *Server) execIn(ctx context.Context, vm banger.VM, req ExecRequest) (ExecAnswer, error) {
	c := &guest.Client{
		Dial:  func(ctx context.Context) (net.Conn, error) { return s.VMs.Dial(ctx, vm.ID) },
		Final: ended,
	}
	spec := guest.ExecSpec{ID: sessionID(), Argv: req.Argv, Env: req.Env, Dir: req.Dir, User: req.User, Stdin: len(req.Stdin) > 0}
	if spec.Dir == "" {
		spec.Dir = vm.Spec.Workspace
	}
	var out, errs capped
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
	a.Stdout, a.Stderr, a.Dropped = out.kept, errs.kept, out.dropped+errs.dropped
	return a, guestError(err)
}

// kill ends a command nobody waits for any more, if the guest can still be reached.
func kill(ctx context.Context, c *guest.Client, id string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = c.Signal(ctx, id, "KILL")
}

// ended tells the guest client which dial errors no second try will mend.
func ended(err error) bool {
	code := banger.CodeOf(err)
	return code == banger.CodeNotRunning || code == banger.CodeNotFound
}

// guestError gives what the agent said a code of ours.
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

// capped keeps the first ExecOutput bytes and counts the others.
type capped struct {
	kept    []byte
	dropped int64
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), ExecOutput-len(c.kept))
	c.kept = append(c.kept, p[:n]...)
	c.dropped += int64(len(p) - n)
	return len(p), nil
}

// sessionID returns 32 hex digits nobody chose before.
func sessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
