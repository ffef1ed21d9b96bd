package engine

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"banger"
	"banger/guest"
)

// surface makes the error that a user sees: it adds what was being done and the operation.
func surface(op, doing string, err error) error {
	if err == nil {
		return nil
	}
	if g, ok := errors.AsType[*guest.Error](err); ok && g.Code != guest.CodeInternal && banger.CodeOf(err) == banger.CodeInternal {
		err = banger.Errorf(banger.CodeUnavailable, "%w", err)
	}
	if errors.Is(err, syscall.ENOSPC) && banger.CodeOf(err) == banger.CodeInternal {
		err = banger.Errorf(banger.CodeUnavailable, "%w", err).WithHint("the disk is full: make room and try again")
	}
	if strings.Contains(err.Error(), "structure needs cleaning") { // EUCLEAN, from the guest
		err = banger.Errorf(banger.CodeUnavailable, "%w", err).WithHint("its file system is damaged: `e2fsck -fy` on the disk in its directory repairs it")
	}
	out := banger.During(doing, err)
	if e, ok := errors.AsType[*banger.Error](out); ok && e.Op == "" {
		e.Op = op
	}
	return out
}

// ended says for a person how a run ended; nil: nobody saw it.
func ended(x *banger.Exit) string {
	if x == nil {
		x = &banger.Exit{}
	}
	text := cmp.Or(map[banger.ExitKind]string{
		banger.ExitPoweroff: "guest powered off",
		banger.ExitReboot:   "guest rebooted",
		banger.ExitHalt:     "guest halted",
		banger.ExitPanic:    "kernel panic",
		banger.ExitKilled:   "killed",
		banger.ExitFailed:   "hypervisor failed",
	}[x.Kind], "ended unseen")
	if x.Detail != "" {
		return fmt.Sprintf("%s: %s", text, x.Detail)
	}
	return text
}
