package kvm

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxWait  = 10 * time.Second // for a thread to get as much CPU time as it may use
	look     = 2 * time.Millisecond
	stopTime = 5 * time.Second // for a thread that was told to stop
)

var (
	errSlow = errors.New("it took too much processor time")
	// errStarved: nothing was found out, as the host gave too little CPU time.
	errStarved = errors.New("it got hardly any processor time")
)

// meter runs f in a thread of its own and returns the CPU time that it took. It calls stop
// and returns errSlow when f takes more than bound, errStarved when f doesn't get that much
// in maxWait, and another error when ctx ends.
func meter(ctx context.Context, bound time.Duration, f func() error, stop func(tid int)) (time.Duration, error) {
	type result struct {
		took time.Duration
		err  error
	}
	tid, done := make(chan int, 1), make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		id := unix.Gettid()
		start := threadTime(id)
		tid <- id
		err := f()
		done <- result{threadTime(id) - start, err}
	}()
	id := <-tid
	start := threadTime(id)
	tick := time.NewTicker(look)
	defer tick.Stop()
	starved := time.After(maxWait)
	var why error
	for why == nil {
		select {
		case r := <-done:
			return r.took, r.err
		case <-tick.C:
			if threadTime(id)-start > bound {
				why = errSlow
			}
		case <-starved:
			why = errStarved
		case <-ctx.Done():
			why = ctx.Err()
		}
	}
	stop(id)
	select {
	case r := <-done:
		return r.took, why
	case <-time.After(stopTime):
		return 0, errStuck
	}
}

// threadTime returns the processor time that a thread of ours has had; 0 when it is
// gone. The clock's number is made of the thread's as in clock_getres(2): CPUCLOCK_SCHED
// of CPUCLOCK_PERTHREAD (the kernel's posix-timers.h).
func threadTime(tid int) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^tid<<3|6), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
