// Package cli is the command line: one file per command, each an options
// struct and a function of App, options and arguments. It owns what a person
// reads and types: flags, help, tables, progress, terminals, exit statuses.
//
// It knows nothing of where the services are or how a daemon is found, reads no
// environment, and keeps no state from one command to the next.
package cli

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
	"banger/config"
	"banger/version"
)

// App is what a command works with. The fields are set before Run.
type App struct {
	In       io.Reader // a terminal is recognised when it is an *os.File
	Out, Err io.Writer
	Term     string                      // the terminal's type, for the guest
	Getenv   func(string) (string, bool) // reads the caller's environment, where a command line asks for it

	banger.Services
	Daemon Daemon
	API    []byte // the description of the HTTP API
	Config func() (config.Config, error)
	SSH    SSH

	args    []string // the command line
	json    bool     // --json
	view    view
	doc     document // what it prints then
	results map[*cobra.Command][]Result
}

// Daemon is the daemon itself. None of its methods starts one.
type Daemon interface {
	Status(ctx context.Context) (DaemonStatus, error)
	// Stop ends a running daemon and returns when it has ended; VMs run on.
	Stop(ctx context.Context) error
	// Restart ends a running daemon, if there is one, and starts one.
	Restart(ctx context.Context) error
	// Remove removes banger's caches and installed programs from this host, and with
	// all everything else, too. No daemon may run. It returns the paths it removed and
	// those that stay.
	Remove(all bool) (removed, stays []string, err error)
	// Examine looks at the host. It works where no daemon can run, too.
	Examine(ctx context.Context) (banger.Report, error)
	// FetchFirecracker fetches the pinned release from a mirror, unless it is there.
	// With mirror empty, config.toml's is used, else the project's own.
	FetchFirecracker(ctx context.Context, mirror string) (Fetched, error)
	// FetchQEMU fetches the newest QEMU of Debian's packages, unless it is there. With mirror
	// empty, config.toml's mirror of Debian is used, else this host's, else the public one.
	FetchQEMU(ctx context.Context, mirror string, p banger.Progress) (Fetched, error)
	// Log returns the end of the daemon's log.
	Log(lines int) string
}

// Fetched is a hypervisor that was fetched to this host.
type Fetched struct {
	Name    string `json:"name"` // "Firecracker", "QEMU"
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
130 interrupted. "run", "exec" and "attach" end with the command's own status; 124
when --timeout ended it, 125 when banger itself failed, 126 and 127 when the command
could not be run.`

// guestStatus marks commands whose status is the guest's.
const guestStatus = "guest-status"

// exitStatus ends a command with a guest's status, without an error message.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Run runs one command line and returns its exit status.
func Run(ctx context.Context, app App, args []string) int {
	a := &app
	a.args, a.view = args, view{term: a.Term, getenv: a.Getenv}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.end(cmd, err)
}

func exitOf(code banger.Code) int {
	switch code {
	case banger.CodeInvalid, banger.CodeForbidden:
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

func (a *App) root() *cobra.Command {
	a.results = map[*cobra.Command][]Result{}
	root := &cobra.Command{
		Use:           "banger",
		Short:         "A Linux machine of its own, a microVM, for you, your agent or a command",
		Example:       fiveThings,
		Version:       version.String(), // `banger version` says more, and asks the daemon
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          a.helpOrUsage,
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON object: {\"results\":[...],\"errors\":[...]}")
	a.view.color.add(root, root.PersistentFlags())
	root.SetFlagErrorFunc(a.flagError)
	root.SetGlobalNormalizationFunc(spelled)
	root.SetHelpTemplate(rootHelp)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", a.view.page(a.Out).across())))
	root.SetVersionTemplate("banger {{.Version}}\n")
	root.AddGroup(&cobra.Group{ID: groupVMs, Title: "VMs:"}, &cobra.Group{ID: groupMakes, Title: "What they are made of:"},
		&cobra.Group{ID: groupSystem, Title: "banger itself:"})
	root.AddCommand(grouped(groupVMs, append(short(a), sshCommand(a), sshConfigCommand(a), sshProxyCommand(a), sshServeCommand(a), codeCommand(a), portsCommand(a), forwardCommand(a), vmCommand(a), workspaceCommand(a), commandCommand(a), operationCommand(a), eventsCommand(a))...)...)
	root.AddCommand(grouped(groupMakes, imageCommand(a), kernelCommand(a), templateCommand(a), hypervisorCommand(a))...)
	root.AddCommand(grouped(groupSystem,
		doctorCommand(a),
		configCommand(a),
		systemCommand(a),
		daemonCommand(a),
		apiCommand(a),
		uninstallCommand(a),
		versionCommand(a))...)
	root.SetHelpCommandGroupID(groupSystem)
	root.SetCompletionCommandGroupID(groupSystem)
	return root
}

// group is a command that only holds others.
func (a *App) group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: a.helpOrUsage,
	}
}

// usage returns the error of a command that was called wrongly.
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

// interruptible returns a context that ends on the usual signals to end a command.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
}
