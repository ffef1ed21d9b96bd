package qemu

import (
	"context"
	"regexp"

	"banger"
	"banger/vmm/machine"
)

// halted matches a CPU that sleeps (HLT) with interrupts disabled (bit 9 of the flags, here
// the second bit of the third digit from the right): nothing wakes it in this machine. A
// kernel that has halted leaves all CPUs like that, while QEMU runs on without a message.
var halted = regexp.MustCompile(`\b[ER]FL=[0-9a-f]*[014589cd][0-9a-f]{2} [^\n]*\bHLT=1`)

// standsStill reports whether every CPU of a machine has halted for good. QMP has no command
// for that, so it runs one of the human monitor.
func standsStill(ctx context.Context, m banger.Machine) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, machine.AnswerTimeout)
	defer cancel()
	q, err := dialMonitor(ctx, m)
	if err != nil {
		return false, err
	}
	defer q.Close()
	for n := range m.VCPU {
		var registers string
		err := q.do("human-monitor-command", map[string]any{"command-line": "info registers", "cpu-index": n}, &registers)
		if err != nil || !halted.MatchString(registers) {
			return false, err
		}
	}
	return true, nil
}
