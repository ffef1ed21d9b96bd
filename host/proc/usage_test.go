package proc_test

import (
	"bufio"
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

// What a process started counts, whether it runs or has ended.
func TestUsageOfChildren(t *testing.T) {
	cmd := exec.Command("sh", "-c", `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done
		sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo ended
		sh -c 'x=$(head -c 8000000 /dev/zero | tr "\\0" x); echo grown; read line; echo ${#x}'; :`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), cmd.Wait() }()
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	look := func() banger.Usage {
		if !lines.Scan() {
			t.Fatal("it ended")
		}
		u, err := proc.Host{}.Usage(p)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	ended := look()
	grown := look()
	if ended.CPUMS == 0 || grown.CPUMS < ended.CPUMS || grown.Private-ended.Private < 7<<20 || grown.RSS < grown.Private || grown.Shared != grown.RSS-grown.Private {
		t.Errorf("%+v, then %+v", ended, grown)
	}
}
