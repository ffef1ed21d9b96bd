package inguest

import (
	"context"
	"net/http"
	"reflect"

	"banger"
	"banger/api/wire"
	"banger/guest"
)

// StartCommandRequest is a command that nobody waits for.
type StartCommandRequest struct {
	ID   string   `json:"id,omitempty" jsonschema:"pattern=^([0-9a-f]{32})?$"` // 32 hex digits; starting an id a second time starts nothing. Empty: the daemon chooses one
	Argv []string `json:"argv" jsonschema:"required,minItems=1"`
	Env  []string `json:"env,omitempty"`  // KEY=value
	Dir  string   `json:"dir,omitempty"`  // empty: the VM's workspace, else the user's home
	User string   `json:"user,omitempty"` // empty: root
}

// CommandOutput is a piece of what a command wrote.
type CommandOutput struct {
	Stream string      `json:"stream" jsonschema:"enum=stdout,enum=stderr"`
	Offset int64       `json:"offset"` // of the first byte of data in the stream
	Data   guest.Bytes `json:"data"`
	Lost   int64       `json:"lost,omitempty"` // bytes just before the offset that aren't kept any more
}

// CommandOutputQuery says from where output is wanted.
type CommandOutputQuery struct {
	Stdout int64 `json:"stdout,omitempty" jsonschema:"minimum=0"` // bytes of it that the client has
	Stderr int64 `json:"stderr,omitempty" jsonschema:"minimum=0"` // bytes of it that the client has
	Follow bool  `json:"follow,omitempty"`                        // go on until the command has ended
}

// SignalCommandRequest names a signal.
type SignalCommandRequest struct {
	Signal string `json:"signal,omitempty"` // "INT"; empty: TERM
}

func (s handlers) commandRoutes() []wire.Route {
	return []wire.Route{
		wire.List("Commands", "GET /v2/vms/{vm}/commands", wire.Owner, "Lists the commands that a VM's guest keeps, oldest first: those that run, and the latest that have ended.", s.commands),
		wire.Value("StartCommand", "POST /v2/vms/{vm}/commands", wire.Owner, "Starts a command and answers when it runs, or couldn't be run. Of its output the last 4 MiB are kept; it is never held back.", s.startCommand),
		wire.Value("Command", "GET /v2/vms/{vm}/commands/{command}", wire.Owner, "Gives one command.", s.command),
		wire.Value("ForgetCommand", "DELETE /v2/vms/{vm}/commands/{command}", wire.Owner, "Forgets a command that has ended, and its output. It is a conflict while it runs.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				c, cmd, err := s.find(ctx, r)
				if err == nil {
					err = guestError(c.Forget(ctx, cmd.ID))
				}
				return wire.Nothing{}, err
			}),
		wire.Value("SignalCommand", "POST /v2/vms/{vm}/commands/{command}/signal", wire.Owner, "Sends a signal to a command's process group. It is a conflict when the command has ended.",
			func(ctx context.Context, r *http.Request, in SignalCommandRequest) (wire.Nothing, error) {
				c, cmd, err := s.find(ctx, r)
				if in.Signal == "" {
					in.Signal = "TERM"
				}
				if err == nil {
					err = guestError(c.Signal(ctx, cmd.ID, in.Signal))
				}
				return wire.Nothing{}, err
			}),
		s.outputRoute(),
	}
}

// outputRoute answers with what a command wrote, in the order in which it did, and with
// the command.
func (s handlers) outputRoute() wire.Route {
	rt := wire.Lines[CommandOutputQuery, guest.Command]("CommandOutput", "GET /v2/vms/{vm}/commands/{command}/output", wire.Owner,
		"Gives what a command wrote and is still kept, in order, and then the command. Reading changes nothing: any number of clients may, from anywhere, while it runs and later. One whose daemon has ended asks the next one, from where it was.", "",
		func(w http.ResponseWriter, r *http.Request, in CommandOutputQuery) error {
			ctx := r.Context()
			if in.Stdout < 0 || in.Stderr < 0 {
				return banger.Errorf(banger.CodeInvalid, "offsets are %d and %d: they can't be negative", in.Stdout, in.Stderr)
			}
			c, cmd, err := s.find(ctx, r)
			if err != nil {
				return err
			}
			if in.Stdout > cmd.Stdout || in.Stderr > cmd.Stderr {
				return banger.Errorf(banger.CodeInvalid, "the command has written %d bytes to stdout and %d to stderr, and %d and %d are said to be had", cmd.Stdout, cmd.Stderr, in.Stdout, in.Stderr)
			}
			lines := wire.NewLines(w)
			err = c.Output(ctx, cmd.ID, [2]int64{in.Stdout, in.Stderr}, in.Follow, func(o guest.Output) error {
				lines.Write(outputLine{Output: &CommandOutput{o.Stream, o.Offset, o.Data, o.Lost}})
				return nil
			})
			if guest.CodeOf(err) == guest.CodeInvalid { // it can't be our request
				err = banger.Errorf(banger.CodeUnavailable, "the guest's agent: %s", err).WithHint("the VM was started by an older banger: `banger vm restart` gives it an agent of this one")
			}
			if err == nil {
				_, cmd, err = s.find(ctx, r)
			}
			switch {
			case ctx.Err() != nil: // the client or the daemon ends: no last line, so that it isn't taken for a whole answer
				panic(http.ErrAbortHandler)
			case err == nil:
				lines.Write(outputLine{Result: &cmd})
			case lines.Begun():
				lines.Write(wire.Line{Error: banger.AsError(guestError(err))})
			default:
				return guestError(err)
			}
			return nil
		})
	rt.Line = reflect.TypeFor[CommandOutput]()
	return rt
}

// outputLine is a line of that answer, if it is no error.
type outputLine struct {
	Output *CommandOutput `json:"output,omitempty"`
	Result *guest.Command `json:"result,omitempty"`
}

func (s handlers) startCommand(ctx context.Context, r *http.Request, in StartCommandRequest) (guest.Command, error) {
	if len(in.Argv) == 0 {
		return guest.Command{}, errNoArgv
	}
	vm, err := s.VM(ctx, r.PathValue("vm"))
	if err != nil {
		return guest.Command{}, err
	}
	spec := guest.ExecSpec{ID: in.ID, Argv: in.Argv, Env: in.Env, Dir: in.Dir, User: in.User}
	if spec.ID == "" {
		spec.ID = guest.NewID()
	}
	if spec.Dir == "" {
		spec.Dir = vm.Spec.Workspace
	}
	c := s.guest(vm)
	// One that couldn't be run is there, too, and says why.
	if err := c.Start(ctx, spec); err != nil && guest.CodeOf(err) != guest.CodeNotStarted {
		return guest.Command{}, guestError(err)
	}
	return findCommand(ctx, c, vm, spec.ID)
}

func (s handlers) command(ctx context.Context, r *http.Request, _ wire.Nothing) (guest.Command, error) {
	_, cmd, err := s.find(ctx, r)
	return cmd, err
}

// commands lists what users run; the agent's own tools are no commands.
func (s handlers) commands(ctx context.Context, r *http.Request, _ wire.Nothing) ([]guest.Command, error) {
	vm, err := s.VM(ctx, r.PathValue("vm"))
	if err != nil {
		return nil, err
	}
	all, err := s.guest(vm).Sessions(ctx)
	return guest.CommandsOf(vm.ID, all), guestError(err)
}

// find returns the command that a request is about, and a client of its guest.
func (s handlers) find(ctx context.Context, r *http.Request) (*guest.Client, guest.Command, error) {
	vm, err := s.VM(ctx, r.PathValue("vm"))
	if err != nil {
		return nil, guest.Command{}, err
	}
	c := s.guest(vm)
	cmd, err := findCommand(ctx, c, vm, r.PathValue("command"))
	return c, cmd, err
}

// findCommand finds a command by its id, or the first four digits of it or more.
func findCommand(ctx context.Context, c *guest.Client, vm banger.VM, ref string) (guest.Command, error) {
	all, err := c.Sessions(ctx)
	if err != nil {
		return guest.Command{}, guestError(err)
	}
	cmd, err := guest.FindCommand(guest.CommandsOf(vm.ID, all), ref)
	if err == nil {
		return cmd, nil
	}
	e := banger.Errorf(banger.Code(guest.CodeOf(err)), "vm %s: %w", vm.Spec.Name, err)
	if e.Code == banger.CodeConflict {
		return cmd, e.WithHint("use more digits of the id")
	}
	return cmd, e.WithHint("it keeps those that run and the last 64 that have ended, until it stops")
}
