package cli_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"banger"
	"banger/cli"
)

type one struct{ banger.VMService }

func (one) VM(context.Context, string) (banger.VM, error) {
	return banger.VM{ID: "aaaaaaaaaaaa", Spec: banger.Spec{Name: "web"}}, nil
}

func TestNoTarOnATerminal(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer tty.Close()
	var errs bytes.Buffer
	a := cli.App{In: strings.NewReader(""), Out: tty, Err: &errs, Services: living(one{})}
	if status := cli.Run(t.Context(), a, []string{"vm", "cp", "web:/etc", "-"}); status != cli.ExitInvalid || !strings.Contains(errs.String(), "a tar can't be written to a terminal") {
		t.Errorf("status %d, %s", status, errs.String())
	}
}
