package cli_test

import (
	"context"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"banger"
	"banger/cli"
)

// hostOfMany has VMs of all kinds.
type hostOfMany struct {
	banger.VMService
	banger.VMControl
	banger.SystemService
}

const sorry = "QEMU ended by signal 9; its log is in the VM's directory, and says nothing more"

func (hostOfMany) VMs(context.Context) ([]banger.VM, error) {
	made := time.Now().Add(-90 * time.Minute)
	spec := banger.Spec{Image: "debian-13", VCPU: 2, MemoryMiB: 2048, DiskMiB: 10240}
	named := func(name string) banger.Spec { s := spec; s.Name = name; return s }
	return []banger.VM{
		{ID: "aaaaaaaaaaaa", State: banger.Running, Created: made, Spec: named("web"), Ends: time.Now().Add(time.Hour)},
		{ID: "bbbbbbbbbbbb", State: banger.Stopped, Created: made, Spec: named("a-name-that-somebody-made-as-long-as-they-could"), Reason: sorry},
	}, nil
}

func (c hostOfMany) VM(ctx context.Context, ref string) (banger.VM, error) {
	all, _ := c.VMs(ctx)
	for _, vm := range all {
		if vm.ID == ref || vm.Spec.Name == ref {
			return vm, nil
		}
	}
	return banger.VM{}, banger.Errorf(banger.CodeNotFound, "no vm %q", ref).WithHint("`banger ps` lists them")
}

func (c hostOfMany) StatsVM(ctx context.Context, ref string) (banger.Stats, error) {
	vm, err := c.VM(ctx, ref)
	return banger.Stats{ID: vm.ID, Name: vm.Spec.Name, State: vm.State, Usage: banger.Usage{CPUMS: 12345678, RSS: 1 << 30, PSS: 1 << 29, Shared: 1 << 28, Private: 1 << 27}, Disk: 1 << 34}, err
}

func (hostOfMany) Collect(context.Context, banger.CollectOptions) ([]banger.Found, error) {
	return []banger.Found{{Claim: "orphaned", Kind: "file", Name: "/home/somebody/.local/state/banger/vms/cccccccccccc/disk.ext4", Removed: true, Detail: sorry}}, nil
}

func (hostOfMany) Prune(context.Context, banger.PruneOptions) ([]banger.Pruned, error) {
	return []banger.Pruned{{Kind: "download", ID: "0123456789abcdef", Name: strings.Repeat("deb.debian.org_pool_main_", 4), Bytes: 1 << 20, Detail: sorry}}, nil
}

// onTerminal runs a command on a terminal with so many columns, and returns what that
// showed and the status.
func onTerminal(t *testing.T, cols int, app cli.App, args ...string) (string, int) {
	t.Helper()
	pt, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pt.Close() }()
	if err := pty.Setsize(pt, &pty.Winsize{Cols: uint16(cols), Rows: 24}); err != nil {
		t.Fatal(err)
	}
	app.In, app.Out, app.Err = strings.NewReader(""), tty, tty
	ended := make(chan int)
	go func() {
		status := cli.Run(t.Context(), app, args)
		_ = tty.Close()
		ended <- status
	}()
	shown, _ := io.ReadAll(pt) // ends with EIO when the other side is closed
	return strings.ReplaceAll(string(shown), "\r\n", "\n"), <-ended
}

func crowded() cli.App {
	c := hostOfMany{}
	return cli.App{Term: "xterm", Services: banger.Parts{Whole: c, VM: struct {
		banger.VMService
		banger.VMControl
		banger.Leases
	}{c, c, nil}}}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Tables have room in the terminal: what matters least is cut or left out. What matters
// most stays.
func TestTablesFit(t *testing.T) {
	for _, c := range []struct {
		args  string
		cols  int
		stays string // words of the first line
	}{
		{"ps", 160, "NAME STATE IMAGE ISOLATION VCPU MEMORY DISK AGE ENDS REASON"},
		{"ps", 100, "NAME STATE IMAGE ISOLATION VCPU MEMORY AGE ENDS REASON"},
		{"ps", 80, "NAME STATE IMAGE AGE ENDS REASON"},
		{"ps", 50, "NAME STATE ENDS"},
		{"vm stats", 120, "NAME STATE CPU TIME CPU RSS PSS SHARED PRIVATE DISK"},
		{"vm stats", 80, "NAME STATE CPU TIME CPU PSS PRIVATE DISK"},
		{"vm stats", 56, "NAME STATE CPU PSS DISK"},
		{"system gc", 100, "CLAIM KIND NAME VM DONE DETAIL"},
		{"system gc", 80, "CLAIM KIND NAME VM DONE"},
		{"system prune --dry-run", 100, "KIND ID NAME SIZE DONE DETAIL"},
		{"system prune --dry-run", 80, "KIND NAME SIZE DONE DETAIL"},
		{"vm show a-name-that-somebody-made-as-long-as-they-could", 60, "name a-name-that-somebody-made-as-long-as-they-could"},
	} {
		shown, status := onTerminal(t, c.cols, crowded(), strings.Fields(c.args)...)
		if status != 0 {
			t.Errorf("%s: status %d, %s", c.args, status, shown)
		}
		lines := strings.Split(sgr.ReplaceAllString(shown, ""), "\n")
		if got := strings.Join(strings.Fields(lines[0]), " "); got != c.stays {
			t.Errorf("%s at %d columns: %q, want %q", c.args, c.cols, got, c.stays)
		}
		for _, line := range lines {
			if len(line) > c.cols {
				t.Errorf("%s at %d columns: %d in %q", c.args, c.cols, len(line), line)
			}
		}
	}
}

// Elsewhere nothing is left out, and nothing is painted.
func TestTablesWhole(t *testing.T) {
	var out, errs strings.Builder
	app := crowded()
	app.In, app.Out, app.Err = strings.NewReader(""), &out, &errs
	if status := cli.Run(t.Context(), app, []string{"ps"}); status != 0 || !strings.Contains(out.String(), "DISK") ||
		!strings.Contains(out.String(), "a-name-that-somebody-made-as-long-as-they-could") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("status %d: %s", status, out.String())
	}
}

// States and errors have colours where a terminal knows them and nobody said no.
func TestColors(t *testing.T) {
	const green, alarm = "\x1b[32mrunning\x1b[0m", "\x1b[1;31mbanger:\x1b[0m no vm \"nosuch\"\n  \x1b[36m`banger ps`\x1b[0m lists them"
	for _, c := range []struct {
		term, env string
		flags     []string
		want      bool
	}{
		{"xterm", "", nil, true},
		{"xterm", "NO_COLOR=1", nil, false},
		{"xterm", "NO_COLOR=", nil, true},
		{"dumb", "", nil, false},
		{"", "", nil, false},
		{"xterm", "", []string{"--color=never"}, false},
		{"xterm", "", []string{"--color", "auto"}, true},
		{"dumb", "NO_COLOR=1", []string{"--color", "always"}, true},
	} {
		app := crowded()
		app.Term = c.term
		app.Getenv = func(key string) (string, bool) { return strings.CutPrefix(c.env, key+"=") }
		for want, args := range map[string][]string{green: {"ps"}, alarm: {"vm", "show", "nosuch"}} {
			shown, _ := onTerminal(t, 80, app, append(args, c.flags...)...)
			if strings.Contains(shown, want) != c.want || strings.Contains(shown, "\x1b[") != c.want {
				t.Errorf("TERM=%s %s %s %s: %q", c.term, c.env, args, c.flags, shown)
			}
		}
	}
	app := crowded()
	if shown, status := onTerminal(t, 80, app, "ps", "--json"); status != 0 || strings.Contains(shown, "\x1b") {
		t.Errorf("--json: status %d, %q", status, shown)
	}
	if shown, status := onTerminal(t, 80, app, "ps", "--color", "blue"); status != cli.ExitInvalid || !strings.Contains(shown, "auto, always or never") {
		t.Errorf("status %d, %q", status, shown)
	}
	var out strings.Builder
	app.In, app.Out, app.Err = strings.NewReader(""), &out, io.Discard
	if cli.Run(t.Context(), app, []string{"ps", "--color=always"}); !strings.Contains(out.String(), green) {
		t.Errorf("%q", out.String())
	}
}

// A bar has a colour and, by the locale, is a line; a terminal that can't write lines
// anew gets lines that stay.
func TestColoredProgress(t *testing.T) {
	for _, c := range []struct{ term, lang, want, not string }{
		{"xterm", "C.UTF-8", "\x1b[32m━━━━━\x1b[0m\x1b[2m─────────────────\x1b[0m 25% of 4.0 MiB", "###"},
		{"xterm", "C", "[\x1b[32m#####\x1b[0m...............] 25% of 4.0 MiB", "━"},
		{"dumb", "C.UTF-8", "web\n", "\x1b"},
	} {
		app := cli.App{Term: c.term, Services: living(&slowly{until: func() {}}), Getenv: func(key string) (string, bool) { return c.lang, key == "LANG" }}
		shown, status := onTerminal(t, 80, app, "vm", "create")
		if status != 0 || !strings.Contains(shown, c.want) || strings.Contains(shown, c.not) {
			t.Errorf("TERM=%s LANG=%s: status %d, %q", c.term, c.lang, status, shown)
		}
	}
}

// Help is at most 100 columns wide, and has room in a narrow terminal where it tells of
// flags.
func TestHelpFits(t *testing.T) {
	root, _ := cli.Command()
	var walk func(words []string, c *cobra.Command)
	walk = func(words []string, c *cobra.Command) {
		var out strings.Builder
		if status := cli.Run(t.Context(), cli.App{Out: &out, Err: io.Discard}, append(words, "--help")); status != 0 {
			t.Errorf("%s: status %d", words, status)
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > 101 {
				t.Errorf("banger %s --help: %d columns: %s", strings.Join(words, " "), len(line)-1, line)
			}
		}
		for _, sub := range c.Commands() {
			walk(append(slices.Clone(words), sub.Name()), sub)
		}
	}
	walk(nil, root)
	shown, _ := onTerminal(t, 64, cli.App{}, "run", "--help")
	for line := range strings.Lines(shown[strings.Index(shown, "\nFlags:"):]) {
		if len(line) > 65 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}
