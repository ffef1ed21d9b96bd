package proc_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"banger"
	"banger/host/proc"
)

// What this process touches shows in what it is said to use.
func TestUsage(t *testing.T) {
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	before, err := proc.Host{}.Usage(self)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += os.Getpagesize() {
		block[i] = 1
	}
	after, err := proc.Host{}.Usage(self)
	runtime.KeepAlive(block)
	if err != nil || after.Private-before.Private < 60<<20 || after.RSS < after.Private || after.PSS > after.RSS || after.CPUMS < before.CPUMS {
		t.Errorf("before %+v, after %+v, %v", before, after, err)
	}
}

func TestSignalByName(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := (proc.Host{}).Signal(p, "NOSUCH"); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("got %v", err)
	}
	if err := (proc.Host{}).Signal(p, "TERM"); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended by itself")
	}
	if err := (proc.Host{}).Signal(p, "KILL"); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
	if _, err := (proc.Host{}).Usage(p); banger.CodeOf(err) != banger.CodeNotRunning {
		t.Errorf("usage after the end: %v", err)
	}
}
