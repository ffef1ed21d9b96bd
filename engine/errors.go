package engine

import (
	"context"
	"errors"
	"fmt"

	"banger"
	"banger/guest"
)

// surface makes the error a user sees of one that went through several hands:
// it keeps the innermost code and hint, says what was being done, and names
// the operation.
func surface(op, doing string, err error) error {
	if err == nil {
		return nil
	}
	var out *banger.Error
	if inner, ok := errors.AsType[*banger.Error](err); ok {
		out = banger.Errorf(inner.Code, "%s: %w", doing, err)
		out.Hint, out.Op = inner.Hint, inner.Op
	} else {
		out = banger.Errorf(codeOf(err), "%s: %w", doing, err)
	}
	if out.Op == "" {
		out.Op = op
	}
	return out
}

func codeOf(err error) banger.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return banger.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return banger.CodeTimeout
	}
	if g, ok := errors.AsType[*guest.Error](err); ok && g.Code != guest.CodeInternal {
		return banger.CodeUnavailable
	}
	return banger.CodeInternal
}

// endedBy says for a person how a run ended.
func endedBy(x banger.Exit) string {
	text := map[banger.ExitKind]string{
		banger.ExitPoweroff: "guest powered off",
		banger.ExitReboot:   "guest rebooted",
		banger.ExitHalt:     "guest halted",
		banger.ExitPanic:    "kernel panic",
		banger.ExitLost:     "guest's agent was lost",
		banger.ExitKilled:   "killed",
		banger.ExitFailed:   "hypervisor failed",
	}[x.Kind]
	if text == "" {
		text = "ended unseen"
	}
	if x.Detail != "" {
		return fmt.Sprintf("%s: %s", text, x.Detail)
	}
	return text
}

func ended(x *banger.Exit) string {
	if x == nil {
		return "ended unseen"
	}
	return endedBy(*x)
}
