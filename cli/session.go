package cli

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// commandFlags say how a command runs in a guest.
type commandFlags struct {
	env, files []string
	dir, user  string
	tty, noTTY bool
	noStdin    bool
	timeout    time.Duration

	interactive bool // -i: a command that is left alone keeps its standard input open
}

func (f *commandFlags) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set KEY=VALUE for the command; KEY alone has the value it has here (repeatable)")
	fs.StringArrayVar(&f.files, "env-file", nil, "set what this file has, KEY=VALUE a line (repeatable)")
	fs.StringVarP(&f.dir, "workdir", "w", "", "the command's directory (default: the repository, else the image's, else the user's home)")
	fs.StringVarP(&f.user, "user", "u", "", "run as this user of the guest (default: the image's, else root)")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal (default: when standard input and output are one)")
	fs.BoolVarP(&f.noTTY, "no-tty", "T", false, "give the command no terminal")
	fs.BoolVarP(&f.noStdin, "no-stdin", "n", false, "don't pass standard input")
	fs.Var((*seconds)(&f.timeout), "timeout", "kill the command when it takes longer: 30, 30s, 5m; the status is 124 then (default: never)")
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "with -d, keep standard input open for attach; without -d it is always passed on")
	fs.SetInterspersed(false) // what follows is the command's
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[guestStatus] = "yes"
}

// check looks for flags that exclude each other, and reads what others name.
func (f *commandFlags) check(a *App, argv []string) error {
	if _, tty := terminal(a.In); tty && a.json && len(argv) == 0 && !f.noStdin {
		return banger.Errorf(banger.CodeInvalid, "with --json a shell would show nothing before it ends").WithHint("give a command, or leave --json out")
	}
	for with, other := range map[string]bool{"--no-tty": f.noTTY, "--json": a.json} {
		if f.tty && other {
			return banger.Errorf(banger.CodeInvalid, "--tty and %s can't be used together", with).WithHint("leave one of them out")
		}
	}
	env, err := environment(a, f.files, f.env)
	f.env, f.files = env, nil
	return err
}

// unfollowed checks the flags of a command that nobody waits for.
func (f *commandFlags) unfollowed() error {
	if f.timeout > 0 {
		return banger.Errorf(banger.CodeInvalid, "--timeout and -d contradict each other: nobody waits for the command").WithHint("in the VM, timeout(1) ends a command")
	}
	return nil
}

// spec is the command as it is sent to the guest.
func (f *commandFlags) spec(vm banger.VM, argv []string) guest.ExecSpec {
	s := guest.ExecSpec{ID: guest.NewID(), Argv: argv, Env: f.env, Dir: cmp.Or(f.dir, vm.Spec.Workspace), User: f.user, Stdin: !f.noStdin}
	if c := vm.Config; c != nil {
		s.Env = slices.Concat(c.Env, s.Env) // the last setting of a name counts
		s.Dir, s.User = cmp.Or(s.Dir, c.WorkDir), cmp.Or(s.User, c.User)
	}
	return s
}

// guest returns a client of a VM's agent.
func (a *App) guest(vm banger.VM) *guest.Client {
	return &guest.Client{
		Dial:  func(ctx context.Context) (net.Conn, error) { return a.VMs().Dial(ctx, vm.ID) },
		Final: banger.IsDown,
	}
}

// Ran is a command in a VM and how it ended. Of each stream the first MiB is kept.
type Ran struct {
	VM      string      `json:"vm"`                  // id
	Name    string      `json:"name"`                // the VM's
	ID      string      `json:"id,omitempty"`        // of the command, if there is one
	Exit    *int        `json:"exit,omitempty"`      // the status; none: it runs on, or nobody knows
	Signal  string      `json:"signal,omitempty"`    // that ended it: "KILL"
	OOM     bool        `json:"oom,omitempty"`       // the VM ran out of memory
	Error   string      `json:"error,omitempty"`     // why it never ran
	Late    bool        `json:"timed_out,omitempty"` // --timeout ended it; its status is 124 then, as of timeout(1)
	Stdout  guest.Bytes `json:"stdout"`              // {"base64": ...} where it isn't UTF-8
	Stderr  guest.Bytes `json:"stderr"`
	Dropped int64       `json:"dropped,omitempty"` // bytes of both streams that aren't here
	Goes    []Goes      `json:"goes,omitempty"`    // with --dry-run: what would go into the VM; there is none
}

// ranNothing tells a person nothing: the command has spoken for itself.
func ranNothing(*page, []Ran) {}

// interact runs a command (empty: the login shell) with the caller's own streams, or
// with --json keeps what it writes. It returns the command's status as exitStatus, nil
// for 0.
func (a *App) interact(ctx context.Context, vm banger.VM, f commandFlags, argv []string) (Ran, error) {
	spec := f.spec(vm, argv)
	ran := Ran{VM: vm.ID, Name: vm.Spec.Name, ID: spec.ID}
	lend := func(streams *guest.IO) (func(), error) { return a.lend(&spec, streams, f) }
	err := follow(ctx, a, vm, &ran, spec.Stdin, lend, func(ctx context.Context, giveUp func(), streams guest.IO) (guest.ExitStatus, error) {
		late := f.limit(ctx, a.guest(vm), spec.ID, giveUp)
		st, err := a.guest(vm).Exec(ctx, spec, streams)
		if ran.Late = late(); ran.Late && err == nil {
			a.note("the command took longer than %s and was killed", f.timeout)
			st.Code = timedOut
		} else if ran.Late {
			err = banger.Errorf(banger.CodeTimeout, "the command took longer than %s and didn't end when it was killed", f.timeout)
		}
		return st, err
	})
	return ran, err
}

// follow lends a command the caller's streams, or with --json keeps what it writes, while
// do follows it to its end. It fills in ran.
func follow(ctx context.Context, a *App, vm banger.VM, ran *Ran, stdin bool, lend func(*guest.IO) (restore func(), err error),
	do func(ctx context.Context, giveUp func(), streams guest.IO) (guest.ExitStatus, error)) error {
	var out, errs guest.Kept
	streams := guest.IO{Stdout: a.Out, Stderr: a.Err, Gap: a.gap}
	if a.json {
		streams = guest.IO{Stdout: &out, Stderr: &errs, Gap: func(_ string, n int64) { ran.Dropped += n }}
	}
	if stdin {
		streams.Stdin = a.In
	}
	if !a.json {
		restore, err := lend(&streams)
		if err != nil {
			return err
		}
		defer restore()
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	signals, stop := forward(giveUp)
	defer stop()
	streams.Signals = signals
	st, err := do(ctx, giveUp, streams)
	if errors.Is(err, syscall.EPIPE) {
		err = nil // the reader of our output has left; the command was told, and has ended
	}
	ran.Stdout, ran.Stderr, ran.Dropped = out.Bytes, errs.Bytes, ran.Dropped+out.Dropped+errs.Dropped
	if err != nil {
		if banger.CodeOf(err) == banger.CodeTimeout {
			return err
		}
		return a.execError(ctx, vm, err)
	}
	ran.Exit, ran.Signal, ran.OOM, ran.Error = &st.Code, st.Signal, st.OOM, st.Error
	return ran.told(a, vm)
}

// told tells what a status doesn't, and returns the command's status as exitStatus, nil
// for 0.
func (ran *Ran) told(a *App, vm banger.VM) error {
	if ran.Error != "" {
		a.note("%s", printable(ran.Error, 400))
	}
	if ran.OOM {
		a.note("the command was killed because vm %s ran out of memory (it has %s)", vm.Spec.Name, formatMiB(vm.Spec.MemoryMiB))
	}
	if *ran.Exit != 0 {
		return exitStatus(*ran.Exit & 0xff)
	}
	return nil
}

// leave starts a command that nobody follows. One that can't be run has ended, with that
// status.
func (f *commandFlags) leave(ctx context.Context, a *App, vm banger.VM, argv []string) (Ran, error) {
	spec := f.spec(vm, argv)
	ran := Ran{VM: vm.ID, Name: vm.Spec.Name, ID: spec.ID}
	spec.Detach, spec.Stdin = true, f.interactive
	if f.tty {
		out, _ := terminal(a.Out)
		size := sizeOf(out)
		spec.TTY, spec.Term = &size, a.Term
	}
	err := a.guest(vm).Start(ctx, spec)
	if guest.CodeOf(err) != guest.CodeNotStarted {
		if err != nil {
			err = a.execError(ctx, vm, err)
		}
		return ran, err
	}
	cmd, lerr := theCommand(ctx, a, vm, spec.ID)
	if lerr != nil || cmd.Exit == nil {
		return ran, a.execError(ctx, vm, err)
	}
	ran.Exit, ran.Error = cmd.Exit, cmd.Error
	return ran, ran.told(a, vm)
}

// timedOut is the status of a command that --timeout ended, as of timeout(1).
const timedOut = 124

// A guest that is asked to kill a command has this long to say that it has ended.
const killTime = 10 * time.Second

// limit kills a command when its time is over, and gives it up when that doesn't help.
// late ends that, and reports whether the time was over.
func (f *commandFlags) limit(ctx context.Context, c *guest.Client, id string, giveUp func()) (late func() bool) {
	if f.timeout == 0 {
		return func() bool { return false }
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan bool, 1)
	go func() {
		select {
		case <-ctx.Done():
			over <- false
			return
		case <-time.After(f.timeout):
		}
		over <- true
		bound, cancel := context.WithTimeout(ctx, killTime)
		defer cancel()
		for bound.Err() == nil { // one that hasn't begun yet can't be killed yet
			_ = c.Signal(bound, id, "KILL")
			select {
			case <-bound.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		if ctx.Err() == nil {
			giveUp()
		}
	}()
	return func() bool { cancel(); return <-over }
}

// lend gives the command the caller's terminal where it is to have one. restore takes
// it back.
func (a *App) lend(spec *guest.ExecSpec, streams *guest.IO, f commandFlags) (restore func(), err error) {
	in, inTTY := terminal(a.In)
	out, outTTY := terminal(a.Out)
	if !f.tty && (!inTTY || !outTTY || f.noTTY || f.noStdin) {
		return func() {}, nil
	}
	size := sizeOf(out)
	spec.TTY, spec.Term = &size, a.Term
	if !inTTY {
		return func() {}, nil
	}
	s, err := rawScreen(in, out)
	if err != nil {
		return nil, err
	}
	streams.Resize = s.resize
	return s.restore, nil
}

func (a *App) gap(stream string, n int64) {
	a.note("%d bytes of the command's %s were dropped while nobody read them", n, printable(stream, 10))
}

// execError says why a command could not be followed to its end.
func (a *App) execError(ctx context.Context, vm banger.VM, err error) error {
	if ctx.Err() != nil {
		return banger.Errorf(banger.CodeCanceled, "gave up waiting for the command: %w", context.Cause(ctx))
	}
	code := banger.CodeOf(err)
	if code == banger.CodeNotFound {
		return banger.Errorf(banger.CodeNotRunning, "vm %s was deleted while the command ran", vm.Spec.Name)
	}
	if code == banger.CodeNotRunning {
		now, lookup := a.VMs().VM(ctx, vm.ID)
		if lookup == nil && now.Reason != "" {
			return banger.Errorf(banger.CodeNotRunning, "vm %s ended while the command ran: %s", vm.Spec.Name, printable(now.Reason, 200))
		}
	}
	if g, ok := errors.AsType[*guest.Error](err); ok {
		code := banger.CodeUnavailable
		switch g.Code {
		case guest.CodeInvalid, guest.CodeNotFound, guest.CodeConflict:
			code = banger.Code(g.Code)
		}
		return banger.Errorf(code, "the agent of vm %s: %w", vm.Spec.Name, g)
	}
	return err
}

// forward passes signals on to the command. After three interrupts within two seconds
// it calls giveUp.
func forward(giveUp func()) (<-chan string, func()) {
	names := map[os.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT",
		syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2"}
	got := make(chan os.Signal, 8)
	for s := range names {
		signal.Notify(got, s)
	}
	// When the reader of our output leaves, we must not die before the command is told.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	out := make(chan string, 8)
	done := make(chan struct{})
	go func() {
		defer close(out)
		var last, before time.Time
		for {
			select {
			case <-done:
				return
			case s := <-got:
				select {
				case out <- names[s]:
				default: // eight signals wait already
				}
				if s != syscall.SIGINT {
					continue
				}
				now := time.Now()
				if now.Sub(before) < 2*time.Second {
					giveUp()
				}
				last, before = now, last
			}
		}
	}()
	return out, func() {
		signal.Stop(got)
		signal.Stop(pipe)
		close(done)
	}
}
