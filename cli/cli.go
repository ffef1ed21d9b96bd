// Package cli is the command line: one file per command, each an options
// struct and a function of App, options and arguments. It owns what a person
// reads and types: flags, help, tables, progress, terminals, exit statuses.
//
// It refuses to know where the services live and how a daemon is found, reads
// no environment, and holds no state between two commands.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
	"banger/config"
	"banger/doctor"
	"banger/version"
)

// App is what a command works with. The fields are set before Run.
type App struct {
	In       io.Reader // a terminal is recognised when it is an *os.File
	Out, Err io.Writer
	Term     string // the terminal's type, for the guest

	VMs     banger.VMService
	Control banger.VMControl
	System  banger.System
	Catalog banger.Catalog
	Builder banger.ImageBuilder
	Leases  banger.Leases
	Making  banger.Operations
	Frozen  banger.Templates
	Daemon  Daemon
	Config  func() (config.Config, error)

	json bool // --json
}

// Daemon is the daemon itself. None of its methods starts one.
type Daemon interface {
	Status(ctx context.Context) (DaemonStatus, error)
	// Stop ends a running daemon and returns when it has ended; VMs run on.
	Stop(ctx context.Context) error
	// Restart ends a running daemon, if there is one, and starts one.
	Restart(ctx context.Context) error
	// Remove takes back what banger left on this host once no daemon runs: caches
	// and installed programs, with all also everything else. It returns what it
	// removed and says what stays.
	Remove(all bool) (removed, stays []string, err error)
	// Examine looks at the host, whether a daemon can run on it or not.
	Examine(ctx context.Context) (doctor.Report, error)
	// FetchFirecracker fetches the pinned release from a mirror, unless it is there;
	// empty: the one of config.toml, else the project's own.
	FetchFirecracker(ctx context.Context, mirror string) (Fetched, error)
	// Log returns the end of the daemon's log.
	Log(lines int) string
}

// Fetched is a release of Firecracker on this host.
type Fetched struct {
	Version string `json:"version"`
	Path    string `json:"path"`
}

// DaemonStatus says which daemon runs and where its files are.
type DaemonStatus struct {
	Running         bool   `json:"running"`
	Records         bool   `json:"records"` // a daemon has run here before
	*version.Daemon        // nil when none runs
	Socket          string `json:"socket"`
	Log             string `json:"log"`
}

// Exit statuses of banger itself. Commands that run something in a guest end
// with the guest's status, or with ExitOwn.
const (
	ExitFailed      = 1
	ExitInvalid     = 2
	ExitNotFound    = 3
	ExitConflict    = 4
	ExitNotRunning  = 5
	ExitUnavailable = 6
	ExitTimeout     = 7
	ExitOwn         = 125
	ExitInterrupted = 130
)

const statuses = `
Exit statuses: 0 done, 1 failed, 2 not valid, 3 not found, 4 conflict (name
taken, in use), 5 the VM is not running, 6 something is unavailable, 7 timeout,
130 interrupted. "vm run" and "vm exec" end with the command's own status;
125 when banger itself failed, 126 and 127 when the command could not be run.`

// guestStatus marks commands whose status is the guest's.
const guestStatus = "guest-status"

// exitStatus ends a command with a guest's status and no word of ours.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Run runs one command line and returns its exit status.
func Run(ctx context.Context, app App, args []string) int {
	a := &app
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[exitStatus](err); ok {
		return int(s)
	}
	a.printError(err)
	code := banger.CodeOf(err)
	if cmd.Annotations[guestStatus] != "" && code != banger.CodeCanceled {
		return ExitOwn
	}
	return exitOf(code)
}

func exitOf(code banger.Code) int {
	switch code {
	case banger.CodeInvalid:
		return ExitInvalid
	case banger.CodeNotFound:
		return ExitNotFound
	case banger.CodeConflict:
		return ExitConflict
	case banger.CodeNotRunning:
		return ExitNotRunning
	case banger.CodeUnavailable:
		return ExitUnavailable
	case banger.CodeTimeout:
		return ExitTimeout
	case banger.CodeCanceled:
		return ExitInterrupted
	}
	return ExitFailed
}

// printError says what happened, once, at the end.
func (a *App) printError(err error) {
	e, ok := errors.AsType[*banger.Error](err)
	if !ok {
		e = &banger.Error{Code: banger.CodeInternal, Message: err.Error()}
	}
	if a.json {
		_ = json.NewEncoder(a.Err).Encode(map[string]*banger.Error{"error": e})
		return
	}
	text := "banger: " + err.Error() // with what was wrapped around the Error
	if e.Hint != "" {
		text += "\n  " + e.Hint
	}
	if e.Op != "" {
		text += "\n  operation " + e.Op
	}
	if e.Code == banger.CodeInternal && e.Hint == "" {
		text += "\n  this may be a bug in banger: please report it with what `banger doctor --report` prints"
	}
	_, _ = fmt.Fprintln(a.Err, text)
}

func (a *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "banger",
		Short:         "A Linux machine of its own, a microVM, for you, your agent or a command",
		Example:       fiveThings,
		Version:       version.String(), // `banger version` says more, and asks the daemon
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          helpOrUsage,
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON: results to standard output, errors to standard error")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return banger.Errorf(banger.CodeInvalid, "%w", err).
			WithHint("`%s --help` lists the flags; what belongs to a command in the VM goes after --", cmd.CommandPath())
	})
	ps := listCommand(a)
	ps.Use = "ps"
	root.SetHelpTemplate(rootHelp)
	root.SetVersionTemplate("banger {{.Version}}\n")
	root.AddGroup(&cobra.Group{ID: groupVMs, Title: "VMs:"}, &cobra.Group{ID: groupMakes, Title: "What they are made of:"},
		&cobra.Group{ID: groupSystem, Title: "banger itself:"})
	root.AddCommand(grouped(groupVMs, vmCommand(a), ps, operationCommand(a), eventsCommand(a))...)
	root.AddCommand(grouped(groupMakes, imageCommand(a), kernelCommand(a), templateCommand(a), hypervisorCommand(a))...)
	root.AddCommand(grouped(groupSystem,
		doctorCommand(a),
		configCommand(a),
		systemCommand(a),
		daemonCommand(a),
		uninstallCommand(a),
		versionCommand(a))...)
	root.SetHelpCommandGroupID(groupSystem)
	root.SetCompletionCommandGroupID(groupSystem)
	return root
}

func vmCommand(a *App) *cobra.Command {
	cmd := group("vm", "Make, use and delete VMs")
	cmd.AddCommand(runCommand(a), createCommand(a), startCommand(a), stopCommand(a), restartCommand(a), killCommand(a),
		deleteCommand(a), pruneCommand(a), setCommand(a), renameCommand(a),
		listCommand(a), showCommand(a), healthCommand(a), statsCommand(a), execCommand(a), cpCommand(a), logsCommand(a))
	return cmd
}

// group is a command that only holds others.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: helpOrUsage,
	}
}

func helpOrUsage(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	err := banger.Errorf(banger.CodeInvalid, "%s has no command %q", cmd.CommandPath(), args[0])
	// What other tools call it, or have without the word before it.
	vm, _, _ := cmd.Root().Find([]string{"vm"}) // there is one
	for _, c := range slices.Concat(cmd.Commands(), vm.Commands()) {
		if c.Name() == args[0] || c.HasAlias(args[0]) || slices.Contains(c.SuggestFor, args[0]) {
			return err.WithHint("did you mean `%s`?", c.CommandPath())
		}
	}
	if cmd.SuggestionsMinimumDistance = 2; len(cmd.SuggestionsFor(args[0])) > 0 {
		return err.WithHint("did you mean `%s %s`?", cmd.CommandPath(), cmd.SuggestionsFor(args[0])[0])
	}
	return err.WithHint("`%s --help` lists them", cmd.CommandPath())
}

// usage is an error in how a command was called.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return banger.Errorf(banger.CodeInvalid, format, args...).WithHint("usage: %s", cmd.UseLine())
}

// nargs checks the number of arguments; most < 0 is any number.
func nargs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(cmd, "%s: an argument is missing", cmd.CommandPath())
		case most >= 0 && len(args) > most:
			return usage(cmd, "%s: %q is one argument too many", cmd.CommandPath(), args[most])
		}
		return nil
	}
}

// interruptible returns a context that ends on the signals by which a person
// or a system ends a command.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
}

// print writes a result: the wire type with --json, else what human writes.
func (a *App) print(v any, human func(w io.Writer)) error {
	if !a.json {
		human(a.Out)
		return nil
	}
	return json.NewEncoder(a.Out).Encode(v)
}

// completeVMs completes VM names; without a daemon it is silent.
func (a *App) completeVMs(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		vms, err := a.VMs.VMs(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, vm := range vms {
			if strings.HasPrefix(vm.Spec.Name, prefix) {
				names = append(names, vm.Spec.Name+"\t"+string(vm.State))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages completes image names; without a daemon it is silent.
func (a *App) completeImages(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	images, err := a.Catalog.Images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, img := range images {
		if strings.HasPrefix(img.Name, prefix) {
			names = append(names, img.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
