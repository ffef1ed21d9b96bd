package cli_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"banger"
	"banger/cli"
)

// asked is a daemon that notes what it is asked to create.
type asked struct {
	banger.VMService
	spec banger.Spec
	err  error
}

func (a *asked) CreateVM(_ context.Context, spec banger.Spec, _ bool, _ banger.Progress) (banger.VM, error) {
	a.spec = spec
	return banger.VM{Spec: banger.Spec{Name: "web"}}, a.err
}

func run(vms banger.VMService, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = cli.Run(context.Background(), cli.App{In: strings.NewReader(""), Out: &out, Err: &errs, VMs: vms}, args)
	return status, out.String(), errs.String()
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		flag, text string
		want       int // MiB; 0: refused
	}{
		{"--memory", "512", 512}, {"--memory", "512M", 512}, {"--memory", "2g", 2048}, {"--memory", "2GiB", 2048}, {"--memory", "1.5G", 1536},
		{"--disk-size", "10", 10240}, {"--disk-size", "512M", 512}, {"--disk-size", "1T", 1 << 20},
		{"--memory", "", 0}, {"--memory", "0", 0}, {"--memory", "-1", 0}, {"--memory", "G", 0}, {"--memory", "1.0001G", 0},
		{"--memory", "NaN", 0}, {"--memory", "inf", 0}, {"--memory", "1e300", 0}, {"--memory", "12x", 0},
	} {
		var a asked
		status, _, stderr := run(&a, "vm", "create", c.flag+"="+c.text)
		got := max(a.spec.MemoryMiB, a.spec.DiskMiB)
		if got != c.want || (status == 0) != (c.want > 0) {
			t.Errorf("%s %q is %d MiB, status %d, want %d: %s", c.flag, c.text, got, status, c.want, stderr)
		}
	}
}

func TestStatuses(t *testing.T) {
	for code, want := range map[banger.Code]int{
		banger.CodeInvalid: 2, banger.CodeNotFound: 3, banger.CodeConflict: 4, banger.CodeNotRunning: 5,
		banger.CodeUnavailable: 6, banger.CodeTimeout: 7, banger.CodeCanceled: 130, banger.CodeInternal: 1,
	} {
		a := &asked{err: banger.Errorf(code, "the fact").WithHint("the way")}
		status, stdout, stderr := run(a, "vm", "create")
		if status != want || stdout != "" || !strings.Contains(stderr, "banger: the fact\n  the way\n") {
			t.Errorf("%s: status %d, want %d; %q, %q", code, status, want, stdout, stderr)
		}
		if code == banger.CodeCanceled {
			continue
		}
		if status, _, _ := run(a, "vm", "run"); status != cli.ExitOwn {
			t.Errorf("%s in vm run: status %d, want %d", code, status, cli.ExitOwn)
		}
		if _, _, stderr := run(a, "vm", "create", "--json"); !strings.Contains(stderr, `{"error":{"code":"`+string(code)+`"`) {
			t.Errorf("%s with --json: %q", code, stderr)
		}
	}
}

// Every command says what it does; every one that takes flags shows its use.
func TestHelp(t *testing.T) {
	for _, cmd := range []string{"vm run", "vm create", "vm start", "vm stop", "vm delete", "vm list", "vm show", "vm exec", "vm logs",
		"vm restart", "vm kill", "vm prune", "vm set", "vm rename", "vm health", "vm stats", "events", "system gc", "ps", "image import", "kernel pull"} {
		status, out, _ := run(nil, append(strings.Fields(cmd), "--help")...)
		if status != 0 || !strings.Contains(out, "Examples:\n") || !strings.Contains(out, "banger "+cmd) {
			t.Errorf("%s --help: status %d\n%s", cmd, status, out)
		}
	}
	for _, args := range []string{"nosuch", "vm nosuch", "vm show", "vm show a b", "ps x", "image import", "vm create --nosuch",
		"vm restart", "vm kill", "vm set", "vm set web", "vm rename a", "vm rename a b c", "vm health", "vm prune x", "events x", "system gc x"} {
		if status, _, stderr := run(nil, strings.Fields(args)...); status != cli.ExitInvalid || stderr == "" {
			t.Errorf("banger %s: status %d, %q", args, status, stderr)
		}
	}
}
