package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
)

// Processes is what of a hypervisortest.Host is the same for all real drivers.
type Processes struct{}

// Alive is the Host's.
func (Processes) Alive(p banger.Process) bool { return proc.Alive(p) }

// Kill is the Host's.
func (Processes) Kill(t *testing.T, p banger.Process) {
	t.Helper()
	if err := proc.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// Shell starts a shell that has these arguments and ends with the test. The second and
// the third should be -c and "read line".
func Shell(t *testing.T, argv ...string) banger.Process {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	cmd.Args = argv
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() { // then by what was it taken for a VMM?
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
			t.Logf("the bystander is %q, %v", exe, err)
		}
		_ = stdin.Close() // the shell reads the end of its input and ends
		_ = cmd.Wait()
	})
	// A process that has just been made may still look like the program that made it,
	// and a test's name may begin as its VMM's does.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for exe := self; exe == self; time.Sleep(time.Millisecond) {
		if exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		if exe == self {
			t.Log("the bystander still looks like this test")
		}
	}
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
