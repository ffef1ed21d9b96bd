package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"banger"
	"banger/cli"
	"banger/config"
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

// living is a daemon that offers only the plain life of VMs.
func living(vms banger.VMService) banger.Services {
	return banger.Parts{VM: struct {
		banger.VMService
		banger.VMControl
		banger.Leases
	}{VMService: vms}, Whole: complete{}}
}

// complete is a host that has all that VMs need.
type complete struct{ banger.SystemService }

func (complete) Missing(context.Context, banger.Spec) ([]banger.Missing, error) { return nil, nil }

func run(vms banger.VMService, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = cli.Run(context.Background(), cli.App{In: strings.NewReader(""), Out: &out, Err: &errs, Services: living(vms)}, args)
	return status, out.String(), errs.String()
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		flag, text string
		want       int // MiB; 0: refused
	}{
		{"--memory", "512", 512}, {"--memory", "512M", 512}, {"--memory", "2g", 2048}, {"--memory", "2GiB", 2048}, {"--memory", "1.5G", 1536},
		{"--memory", "512MiB", 512}, {"--memory", "512m", 512}, {"--memory", "1.5GiB", 1536}, {"--memory", "2 gb", 2048}, {"-m", "512m", 512}, {"--disk", "50", 51200},
		{"--disk-size", "10", 10240}, {"--disk-size", "512M", 512}, {"--disk-size", "1T", 1 << 20},
		{"--memory", "1", 0}, {"--memory", "", 0}, {"--memory", "0", 0}, {"--memory", "-1", 0}, {"--memory", "G", 0}, {"--memory", "1.0001G", 0},
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

// Help comes with the things people do; a mistyped command with what was meant.
func TestFirstHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}} {
		if status, out, _ := run(nil, args...); status != 0 || strings.Index(out, "Five things") > 100 || strings.Count(out, "\n  banger ") != 5 {
			t.Errorf("banger %s: status %d\n%s", args, status, out)
		}
	}
	for args, want := range map[string]string{"vm exce": "`banger vm exec`", "dcotor": "`banger doctor`", "zzz": "lists them"} {
		if status, _, stderr := run(nil, strings.Fields(args)...); status != cli.ExitInvalid || !strings.Contains(stderr, want) {
			t.Errorf("banger %s: status %d, %s", args, status, stderr)
		}
	}
}

// The defaults of this host stand in the help.
func TestDefaults(t *testing.T) {
	var out bytes.Buffer
	conf := config.Config{DefaultImage: "mine", VCPU: 3, MemoryMiB: 1536, DiskMiB: 20 << 10}
	status := cli.Run(context.Background(), cli.App{Out: &out, Err: &out, Config: func() (config.Config, error) { return conf, nil }}, []string{"vm", "run", "--help"})
	for _, want := range []string{"(default mine)", "(default 3)", "(default 1536M)", "(default 20G)"} {
		if status != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("status %d, no %s in %s", status, want, out.String())
		}
	}
}

// slowly is a daemon that says how far it is.
type slowly struct {
	banger.VMService
	until func() // returns when it may go on
}

func (s *slowly) CreateVM(_ context.Context, spec banger.Spec, _ bool, p banger.Progress) (banger.VM, error) {
	p(banger.Event{Stage: banger.StageSpec, Message: "debian-12, vcpu 2"})
	p(banger.Event{Stage: "kernel", Done: 1 << 20, Total: 4 << 20})
	p(banger.Event{Stage: "kernel", Done: 3 << 20, Total: 4 << 20})
	s.until()
	p(banger.Event{Stage: "kernel", Message: "unpacking"})
	s.until()
	p(banger.Event{Stage: "unpack", Message: "bash", Done: 1, Total: 4, Unit: "packages"})
	p(banger.Event{Stage: "unpack", Message: "dash", Done: 2, Total: 4, Unit: "packages"})
	s.until()
	p(banger.Event{Stage: "agent"})
	return banger.VM{Spec: banger.Spec{Name: "web"}}, nil
}

// On a terminal there are bars, and they go away; elsewhere there are lines, of
// what takes long only; quiet is quiet.
func TestProgress(t *testing.T) {
	pt, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pt.Close() }()
	var out bytes.Buffer
	create := func(errs *os.File, until func(), args ...string) {
		t.Helper()
		app := cli.App{In: strings.NewReader(""), Out: &out, Err: errs, Term: "xterm", Getenv: func(key string) (string, bool) { return "1", key == "NO_COLOR" }, Services: living(&slowly{until: until})}
		if status := cli.Run(context.Background(), app, append([]string{"vm", "create"}, args...)); status != 0 {
			t.Errorf("status %d", status)
		}
		_ = errs.Close()
	}
	go create(tty, func() {})
	shown, _ := io.ReadAll(pt) // ends with EIO when the other side is closed
	for _, want := range []string{"banger: spec: debian-12, vcpu 2\r\n", "getting the kernel [#####...............] 25% of 4.0 MiB", "waiting for the guest"} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("no %q in %q", want, shown)
		}
	}
	if !strings.HasSuffix(string(shown), "\r\x1b[K") {
		t.Errorf("the line stays: %q", shown)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	var said []string
	create(w, func() {
		for range max(1, 2-len(said)) { // spec and first step, then one at a time
			line, _ := lines.ReadString('\n')
			said = append(said, line)
		}
	})
	if want := []string{"banger: spec: debian-12, vcpu 2\n", "banger: getting the kernel (4.0 MiB)\n", "banger: getting the kernel: unpacking\n", "banger: unpacking (4 packages)\n"}; !slices.Equal(said, want) {
		t.Errorf("lines %q, want %q", said, want)
	}
	if more, _ := io.ReadAll(lines); len(more) > 0 {
		t.Errorf("what was quick is told: %q", more)
	}
	if r, w, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	create(w, func() {}, "--quiet")
	if more, _ := io.ReadAll(r); len(more) > 0 {
		t.Errorf("quiet, and %q", more)
	}
}

// A person who is asked may say no; only yes is yes.
func TestAsked(t *testing.T) {
	for answer, want := range map[string]int{"\n": cli.ExitInterrupted, "n\n": cli.ExitInterrupted, "yesterday\n": cli.ExitInterrupted, "\x04": cli.ExitInterrupted, "y\n": 0, "YES\n": 0} {
		pt, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pt.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		s := &spare{}
		status := cli.Run(t.Context(), cli.App{In: tty, Out: &out, Err: &errs, Services: banger.Parts{Whole: s}}, []string{"system", "prune"})
		if status != want || s.pruned != (want == 0) || !strings.Contains(errs.String(), "delete 2.0 KiB: kernel cloud 6.1? [y/N] ") {
			t.Errorf("%q: status %d, pruned %v, %s", answer, status, s.pruned, errs.String())
		}
		if want != 0 && !strings.Contains(errs.String(), "nothing was done") {
			t.Errorf("%q: %s", answer, errs.String())
		}
		_, _ = tty.Close(), pt.Close()
	}
}

// A shell on a terminal has nothing to tell with --json.
func TestNoShellInJSON(t *testing.T) {
	pt, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = tty.Close(), pt.Close() }()
	for _, args := range [][]string{{"run", "--json"}, {"exec", "--json", "web"}} {
		var out, errs bytes.Buffer
		a := &asked{}
		status := cli.Run(t.Context(), cli.App{In: tty, Out: &out, Err: &errs, Services: living(a)}, args)
		if status != cli.ExitOwn || !strings.Contains(out.String(), "a shell would show nothing") || a.spec.Image != "" || errs.Len() > 0 {
			t.Errorf("%v: status %d, %s%s", args, status, out.String(), errs.String())
		}
	}
}

// spare has a kernel to prune.
type spare struct {
	banger.SystemService
	pruned bool
}

func (s *spare) Prune(_ context.Context, opt banger.PruneOptions) ([]banger.Pruned, error) {
	s.pruned = !opt.DryRun
	return []banger.Pruned{{Kind: "kernel", ID: "k", Name: "cloud 6.1", Bytes: 2048, Removed: s.pruned}}, nil
}

// Things that aren't there, or can't be had, are named.
func TestNotThere(t *testing.T) {
	for _, c := range []struct {
		args, want string
		status     int
	}{
		{"template show nosuch", `no template "nosuch"`, cli.ExitNotFound},
		{"hypervisor install xen", `"xen" can't be fetched`, cli.ExitInvalid},
	} {
		var out, errs bytes.Buffer
		status := cli.Run(t.Context(), cli.App{Out: &out, Err: &errs, Services: banger.Parts{Template: none{}}}, strings.Fields(c.args))
		if status != c.status || !strings.Contains(errs.String(), c.want) || out.Len() > 0 {
			t.Errorf("%s: status %d, %s%s", c.args, status, errs.String(), out.String())
		}
	}
}

type none struct{ frozen }

type frozen = interface {
	Templates(context.Context) ([]banger.Template, error)
	CreateTemplate(context.Context, banger.TemplateSpec, banger.Progress) (banger.Template, error)
	DeleteTemplate(context.Context, string) error
}

func (none) Template(_ context.Context, ref string) (banger.Template, error) {
	return banger.Template{}, banger.Errorf(banger.CodeNotFound, "no template %q", ref)
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
		want := `{"results":[],"errors":[{"code":"` + string(code) + `","message":"the fact","hint":"the way"}]}` + "\n"
		if _, stdout, stderr := run(a, "vm", "create", "--json"); stdout != want || stderr != "" {
			t.Errorf("%s with --json: %q, %q", code, stdout, stderr)
		}
	}
}

// Every command says what it does; every one that takes flags shows its use.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s doesn't say what it does", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() {
			return
		}
		status, out, _ := run(nil, append(strings.Fields(c.CommandPath())[1:], "--help")...)
		if strings.ContainsFunc(out, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s --help has what not every terminal can show: %q", c.CommandPath(), out)
		}
		if status != 0 || !strings.Contains(out, "Examples:\n  ") || !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s --help: status %d\n%s", c.CommandPath(), status, out)
		}
	}
	root, _ := cli.Command()
	walk(root)
	for _, args := range []string{"nosuch", "vm nosuch", "vm show", "vm show a b", "ps x", "image import", "vm create --nosuch",
		"vm restart", "vm kill", "vm set", "vm set web", "vm rename a", "vm rename a b c", "vm health", "vm prune x", "events x", "system gc x"} {
		if status, _, stderr := run(nil, strings.Fields(args)...); status != cli.ExitInvalid || stderr == "" {
			t.Errorf("banger %s: status %d, %q", args, status, stderr)
		}
	}
}
