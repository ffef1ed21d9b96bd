package crash_test

import (
	"testing"

	"banger/test/clienttest"
	"banger/test/vmtest"
)

// A client of Python's standard library follows a command in a VM while each daemon that
// answers it is killed, and has every byte and the status in the end.
func TestClientOutlivesDaemons(t *testing.T) {
	h, _ := vmtest.Apart(t)
	name := h.NewVM(t)
	status, err := vmtest.Results[struct{ Socket string }](h.OK(t, "daemon", "status", "--json"))
	if err != nil || len(status) != 1 {
		t.Fatalf("%+v, %v", status, err)
	}
	env := append(h.Command(t.Context()).Env, "PATH="+h.Bin+":/usr/bin:/bin")
	if said := clienttest.Python(t, clienttest.PageCode(t), env, "testdata/attach.py", status[0].Socket, name, "3"); said != "4 daemons\n" {
		t.Errorf("it says %q", said)
	}
}
