package kvm

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// spin counts n down to zero: the loop the guest runs, instruction for instruction.
func spin(n uint32)

// spread is how long the counter is measured, tries how often it is read at each end. The
// clock is read before and after, and the quickest reading counts: those two are some 100 ns
// apart, so the rate is right to 1 ppm.
const (
	spread = 250 * time.Millisecond
	tries  = 200
)

// measureTSC returns the counter's rate in kHz, against CLOCK_MONOTONIC_RAW:
// /proc/cpuinfo may show a momentary frequency instead. It is 0 where the
// counter's rate changes or stops with the processor's.
func measureTSC() int {
	if !constantTSC() {
		return 0
	}
	t0, ns0 := readBoth()
	time.Sleep(spread)
	t1, ns1 := readBoth()
	if t1 <= t0 || ns1 <= ns0 {
		return 0
	}
	return int((float64(t1-t0)*1e6)/float64(ns1-ns0) + 0.5)
}

// steady returns the kept rate if the measured one is the same within 20 ppm, which is two
// seconds a day on a clock. Guests are told the rate, and a template of a guest that was told
// another rate, even by 1 kHz, doesn't fit.
func steady(kept, measured int) int {
	if d := kept - measured; max(d, -d) <= measured/50_000 {
		return kept
	}
	return measured
}

// readBoth reads counter and clock (in nanoseconds) at the same time.
func readBoth() (tsc uint64, ns int64) {
	quickest := int64(-1)
	for range tries {
		before, t, after := clock(), rdtsc(), clock()
		if took := after - before; quickest < 0 || took < quickest {
			quickest, tsc, ns = took, t, before+took/2
		}
	}
	return tsc, ns
}

func clock() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) != nil {
		return 0 // since Linux 2.6.28: never
	}
	return ts.Nano()
}

// constantTSC tells whether the processor says that its counter neither
// changes its rate nor stops.
func constantTSC() bool {
	data, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(data, []byte(" constant_tsc")) && bytes.Contains(data, []byte(" nonstop_tsc"))
}

// deviceGroup returns the group that owns the device.
func deviceGroup() (gid int, ok bool) {
	var st unix.Stat_t
	if unix.Stat(device, &st) != nil {
		return 0, false
	}
	return int(st.Gid), true
}
