package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// Console is what a VM wrote to its serial console, or with -f a line of it.
type Console struct {
	VM   string      `json:"vm"`   // as it was named
	Text guest.Bytes `json:"text"` // {"base64": ...} where it isn't UTF-8
}

// Logged is what a command wrote, or with -f a piece of it; then the last one has no more
// than how the command ended.
type Logged struct {
	VM      string      `json:"vm"` // id
	ID      string      `json:"id"` // of the command
	Stdout  guest.Bytes `json:"stdout"`
	Stderr  guest.Bytes `json:"stderr"`
	Lost    int64       `json:"lost,omitempty"` // bytes before these that aren't kept any more
	Running bool        `json:"running"`
	Exit    *int        `json:"exit,omitempty"`
	Signal  string      `json:"signal,omitempty"` // that ended it
	OOM     bool        `json:"oom,omitempty"`    // the VM ran out of memory
	Error   string      `json:"error,omitempty"`  // why it never ran
}

// logs are the flags of a look at what was written, and what is looked at.
type logs struct {
	follow, console bool
	tail            int // lines; -1: all

	vm      banger.VM
	command guest.Command // unless it is the console
}

func vmLogsCommand(a *App) *cobra.Command {
	var l logs
	cmd := gives(a, &cobra.Command{
		Use:   "logs VM [ID]",
		Short: "Print the output of a command that was left running, or a VM's console",
		Long: `Prints what a command wrote that "banger run -d" or "banger exec -d" left running, and
how it ended: without ID, the latest. Of each command the last 4 MiB are kept, until
the VM stops or its place is needed: a VM keeps 64 commands that have ended. To look
changes nothing; "banger attach" takes part.

Without such a command, and with --console, it prints what the VM wrote to its serial
console. Of a long one only the latest part is kept.`,
		Example: `  banger vm logs web
  banger vm logs -f web 1f3a
  banger vm logs --tail 100 -f web
  banger vm logs --console web`,
		Args:              nargs(1, 2),
		ValidArgsFunction: completeCommands(a, 2),
	}, &l.follow, func(ctx context.Context, _ []string, say func(...Logged) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		read, left := whileRead(ctx, a.Out)
		defer left()
		err := l.output(read, a, say)
		return over(ctx, read, err)
	}, func(w *page, list []Logged) {
		for _, p := range list {
			_, _ = w.Write(p.Stdout)
			_, _ = a.Err.Write(p.Stderr)
		}
	})
	or(a, cmd, &l.console, "of a console", gives(a, &cobra.Command{}, &l.follow, func(ctx context.Context, args []string, say func(...Console) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		read, left := whileRead(ctx, a.Out)
		defer left()
		err := l.ofConsole(read, a, func(text []byte) error { return say(Console{args[0], text}) })
		return over(ctx, read, err)
	}, func(w *page, list []Console) {
		for _, c := range list {
			_, _ = w.Write(c.Text)
		}
	}))
	fs := cmd.Flags()
	fs.BoolVarP(&l.follow, "follow", "f", false, "go on until the command or the VM ends")
	fs.BoolVar(&l.console, "console", false, "print the VM's console, whether commands run in it or not")
	fs.IntVarP(&l.tail, "tail", "n", -1, "print only the last N lines (default: all)")
	fs.Lookup("tail").DefValue = "0" // so that help doesn't tell it a second time
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return l.choose(ctx, a, append(args, ""))
	}
	return cmd
}

// over is how a look ended: when its reader has left, or all was read, well.
func over(ctx, read context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return banger.Errorf(banger.CodeCanceled, "interrupted")
	case read.Err() != nil, errors.Is(err, syscall.EPIPE), err == io.EOF:
		return nil
	}
	return err
}

// choose finds what is to be looked at.
func (l *logs) choose(ctx context.Context, a *App, args []string) (err error) {
	if l.vm, err = a.VMs().VM(ctx, args[0]); err != nil || l.console {
		return err
	}
	id := args[1]
	if id == "" && l.vm.State != banger.Running {
		l.console = true
		a.note("vm %s doesn't run, so it keeps no commands: this is its console", l.vm.Spec.Name)
		return nil
	}
	l.command, err = theCommand(ctx, a, l.vm, id)
	if err != nil && id == "" && ctx.Err() == nil {
		l.console = true
		a.note("%s: this is its console", printable(err.Error(), 200))
		return nil
	}
	return err
}

// ofConsole reads the console.
func (l *logs) ofConsole(ctx context.Context, a *App, say func([]byte) error) error {
	if l.tail >= 0 && l.follow {
		return banger.Errorf(banger.CodeInvalid, "--tail and -f can't be used together with --console").WithHint("`banger logs -f VM | tail -n +N` leaves out the first lines")
	}
	rc, err := a.VMs().Logs(ctx, l.vm.ID, l.follow)
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	part := readPart
	switch {
	case l.tail >= 0:
		part = func(r *bufio.Reader) ([]byte, error) {
			text, err := readAll(r)
			return text[beginning(text, l.tail):], err
		}
	case !a.json:
	case l.follow:
		part = readLine
	default:
		part = readAll
	}
	for r := bufio.NewReaderSize(rc, 64<<10); err == nil; {
		var text []byte
		if text, err = part(r); len(text) > 0 {
			err = firstError(say(text), err)
		}
	}
	if err == io.EOF || errors.Is(err, syscall.EPIPE) {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "the log broke off: %w", err)
}

// maxLog bounds what is held of a command's output, in bytes. An agent keeps less.
const maxLog = 32 << 20

// output reads what a command wrote.
func (l *logs) output(ctx context.Context, a *App, say func(...Logged) error) error {
	var from [2]int64
	if l.tail >= 0 || a.json && !l.follow {
		var pieces []guest.Output
		size := 0
		err := l.read(ctx, a, &from, false, func(o guest.Output) error {
			if size += len(o.Data); size > maxLog {
				return banger.Errorf(banger.CodeUnavailable, "the agent of vm %s says more of the command than it can keep", l.vm.Spec.Name)
			}
			o.Data = bytes.Clone(o.Data)
			pieces = append(pieces, o)
			return nil
		})
		if err != nil {
			return err
		}
		if pieces = lastLines(pieces, l.tail); a.json && !l.follow {
			return l.whole(ctx, a, pieces, say)
		}
		for _, o := range pieces {
			if err := say(l.piece(a, o)); err != nil {
				return err
			}
		}
	}
	if l.tail < 0 || l.follow {
		if err := l.read(ctx, a, &from, l.follow, func(o guest.Output) error { return say(l.piece(a, o)) }); err != nil {
			return err
		}
	}
	end, err := l.end(ctx, a)
	if err == nil && a.json {
		err = say(end)
	}
	return err
}

// read reads output from where from is, and moves that.
func (l *logs) read(ctx context.Context, a *App, from *[2]int64, follow bool, each func(guest.Output) error) error {
	err := a.guest(l.vm).Output(ctx, l.command.ID, *from, follow, func(o guest.Output) error {
		i := 0
		if o.Stream == "stderr" {
			i = 1
		}
		from[i] = o.Offset + int64(len(o.Data))
		return each(o)
	})
	switch {
	case guest.CodeOf(err) == guest.CodeInvalid: // it can't be our request
		return banger.Errorf(banger.CodeUnavailable, "the agent of vm %s is of an earlier banger and can't show output", l.vm.Spec.Name).
			WithHint("`banger attach %s` follows the command", l.vm.Spec.Name)
	case err == nil, errors.Is(err, syscall.EPIPE):
		return err
	}
	return a.execError(ctx, l.vm, err)
}

// piece is a piece of output, as it is told.
func (l *logs) piece(a *App, o guest.Output) Logged {
	if o.Lost > 0 && !a.json && l.tail < 0 {
		a.note("%d bytes of the command's %s aren't kept any more", o.Lost, o.Stream)
	}
	p := Logged{VM: l.vm.ID, ID: l.command.ID, Lost: o.Lost, Running: true}
	if o.Stream == "stderr" {
		p.Stderr = o.Data
	} else {
		p.Stdout = o.Data
	}
	return p
}

// whole tells all pieces as one.
func (l *logs) whole(ctx context.Context, a *App, pieces []guest.Output, say func(...Logged) error) error {
	all, err := l.end(ctx, a)
	for _, o := range pieces {
		p := l.piece(a, o)
		all.Stdout, all.Stderr, all.Lost = append(all.Stdout, p.Stdout...), append(all.Stderr, p.Stderr...), all.Lost+p.Lost
	}
	return firstError(err, say(all))
}

// end looks how the command ended, if it has, and tells a person.
func (l *logs) end(ctx context.Context, a *App) (Logged, error) {
	c, err := theCommand(ctx, a, l.vm, l.command.ID)
	p := Logged{VM: l.vm.ID, ID: l.command.ID, Running: c.Running, Exit: c.Exit, Signal: c.Signal, OOM: c.OOM, Error: c.Error}
	switch {
	case err != nil || c.Exit == nil:
	case c.Error != "":
		a.note("the command couldn't be run: %s", printable(c.Error, 400))
	default:
		a.note("the command has ended: %s, after %s", commandStatus(c), age(time.Duration(c.TookMS)*time.Millisecond))
	}
	return p, err
}

// lastLines leaves the last n lines of all pieces together; n < 0 leaves all.
func lastLines(pieces []guest.Output, n int) []guest.Output {
	if n < 0 {
		return pieces
	}
	var all []byte
	for _, o := range pieces {
		all = append(all, o.Data...)
	}
	cut := beginning(all, n)
	for len(pieces) > 0 && cut >= len(pieces[0].Data) {
		cut -= len(pieces[0].Data)
		pieces = pieces[1:]
	}
	if len(pieces) > 0 {
		o := &pieces[0]
		o.Data, o.Offset = o.Data[cut:], o.Offset+int64(cut)
	}
	return pieces
}

// beginning returns where the last n lines of a text begin. A last line may have no end.
func beginning(text []byte, n int) int {
	if n == 0 {
		return len(text)
	}
	at := len(text)
	if at > 0 && text[at-1] == '\n' {
		at--
	}
	for ; n > 0; n-- {
		if at = bytes.LastIndexByte(text[:at], '\n'); at < 0 {
			return 0
		}
	}
	return at + 1
}

// readPart reads what there is, as soon as there is something.
func readPart(r *bufio.Reader) ([]byte, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	text := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, text)
	return text, err
}

// readLine reads a line, or as much of it as r has room for: a guest may write one that
// never ends.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
	}
	return bytes.Clone(line), err
}

// readAll reads to the end, and says that it was the end.
func readAll(r *bufio.Reader) ([]byte, error) {
	text, err := io.ReadAll(r)
	return text, firstError(err, io.EOF)
}
