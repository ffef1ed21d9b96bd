package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// commandFlags say how a command runs in a guest.
type commandFlags struct {
	env        []string
	dir, user  string
	tty, noTTY bool
	noStdin    bool
}

func (f *commandFlags) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set KEY=VALUE for the command (repeatable)")
	fs.StringVarP(&f.dir, "workdir", "w", "", "the command's directory (default: the repository, else the user's home)")
	fs.StringVarP(&f.user, "user", "u", "", "run as this user of the guest (default: root)")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal (default: when standard input and output are one)")
	fs.BoolVarP(&f.noTTY, "no-tty", "T", false, "never give it one")
	fs.BoolVarP(&f.noStdin, "no-stdin", "n", false, "don't pass standard input")
	// cobra's own check of such a pair returns an error that no user made.
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if f.tty && f.noTTY {
			return banger.Errorf(banger.CodeInvalid, "--tty and --no-tty exclude each other").WithHint("leave one of them out")
		}
		return nil
	}
	cmd.Annotations = map[string]string{guestStatus: "yes"}
}

// spec is the command as the guest is told it.
func (f *commandFlags) spec(vm banger.VM, argv []string) guest.ExecSpec {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	s := guest.ExecSpec{ID: hex.EncodeToString(id[:]), Argv: argv, Env: f.env, Dir: f.dir, User: f.user, Stdin: !f.noStdin}
	if s.Dir == "" {
		s.Dir = vm.Spec.Workspace
	}
	return s
}

// guest returns a client of a VM's agent.
func (a *App) guest(vm banger.VM) *guest.Client {
	return &guest.Client{
		Dial: func(ctx context.Context) (net.Conn, error) { return a.VMs.Dial(ctx, vm.ID) },
		Final: func(err error) bool {
			code := banger.CodeOf(err)
			return code == banger.CodeNotRunning || code == banger.CodeNotFound
		},
	}
}

// interact runs a command (nothing: the login shell) with the caller's own
// streams. Its status comes back as exitStatus, nil for 0.
func (a *App) interact(ctx context.Context, vm banger.VM, f commandFlags, argv []string) error {
	spec := f.spec(vm, argv)
	streams := guest.IO{Stdout: a.Out, Stderr: a.Err, Gap: a.gap}
	if spec.Stdin {
		streams.Stdin = a.In
	}
	in, inTTY := terminal(a.In)
	out, outTTY := terminal(a.Out)
	if f.tty || (inTTY && outTTY && !f.noTTY && !f.noStdin) {
		size := sizeOf(out)
		spec.TTY, spec.Term = &size, a.Term
		if inTTY {
			s, err := rawScreen(in, out)
			if err != nil {
				return err
			}
			defer s.restore()
			streams.Resize = s.resize
		}
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	signals, stop := forward(giveUp)
	defer stop()
	streams.Signals = signals
	st, err := a.guest(vm).Exec(ctx, spec, streams)
	if errors.Is(err, syscall.EPIPE) {
		err = nil // our reader has left; the command was told, and this is its answer
	}
	if err != nil {
		return a.execError(ctx, vm, err)
	}
	if st.Error != "" {
		_, _ = fmt.Fprintf(a.Err, "banger: %s\n", printable(st.Error, 400))
	}
	if st.OOM {
		_, _ = fmt.Fprintf(a.Err, "banger: the command was killed because vm %s ran out of memory (it has %s)\n", vm.Spec.Name, formatMiB(vm.Spec.MemoryMiB))
	}
	if st.Code != 0 {
		return exitStatus(st.Code & 0xff)
	}
	return nil
}

func (a *App) gap(stream string, n int64) {
	_, _ = fmt.Fprintf(a.Err, "banger: %d bytes of the command's %s were dropped while nobody read them\n", n, printable(stream, 10))
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
		now, lookup := a.VMs.VM(ctx, vm.ID)
		if lookup == nil && now.Reason != "" {
			return banger.Errorf(banger.CodeNotRunning, "vm %s ended while the command ran: %s", vm.Spec.Name, printable(now.Reason, 200))
		}
	}
	if g, ok := errors.AsType[*guest.Error](err); ok {
		return banger.Errorf(banger.CodeUnavailable, "the agent of vm %s: %w", vm.Spec.Name, g)
	}
	return err
}

// forward passes signals on to the command. A command that ignores three
// interrupts within two seconds is given up.
func forward(giveUp func()) (<-chan string, func()) {
	names := map[os.Signal]string{syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT",
		syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2"}
	got := make(chan os.Signal, 8)
	for s := range names {
		signal.Notify(got, s)
	}
	// A reader of ours that leaves must not kill us before the command is told.
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
				default: // the guest hasn't taken eight of them: one more is no news
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
