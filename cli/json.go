package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
)

// document is what a command prints with --json: all that it found or did, and all
// that went wrong. Both lists are always there.
type document struct {
	Results []any           `json:"results"`
	Errors  []*banger.Error `json:"errors"`

	due bool // it is still to be printed
}

func (d document) write(w io.Writer) error {
	if d.Results == nil {
		d.Results = []any{}
	}
	if d.Errors == nil {
		d.Errors = []*banger.Error{}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // it stands in no web page
	return e.Encode(d)
}

// Result says which type a command's results have.
type Result struct {
	Type reflect.Type
	When string // which flag makes them this; empty: what they are otherwise
}

// gives makes cmd a command whose results have the type T: run passes them to say,
// and show writes them for a person. With follow they are many documents, one each
// time that say is called.
func gives[T any](a *App, cmd *cobra.Command, follow *bool, run func(ctx context.Context, args []string, say func(...T) error) error, show func(w *page, list []T)) *cobra.Command {
	a.results[cmd] = []Result{{Type: reflect.TypeFor[T]()}}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.doc.due = true
		return run(cmd.Context(), args, func(list ...T) error {
			if !a.json {
				w := a.view.page(a.Out)
				show(w, list)
				return w.fault()
			}
			part := document{Results: slices.Concat(a.doc.Results, anys(list)), due: a.doc.due}
			if follow == nil || !*follow {
				a.doc = part
				return nil
			}
			a.doc.due = false
			return part.write(a.Out)
		})
	}
	return cmd
}

func anys[T any](list []T) []any {
	all := make([]any, len(list))
	for i, v := range list {
		all[i] = v
	}
	return all
}

// answers makes cmd a command that does something and then tells all of it. What was
// done is told, too, when something else went wrong.
func answers[T any](a *App, cmd *cobra.Command, do func(ctx context.Context, args []string) ([]T, error), show func(w *page, list []T)) *cobra.Command {
	return gives(a, cmd, nil, func(ctx context.Context, args []string, say func(...T) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		list, err := do(ctx, args)
		if err == nil || len(list) > 0 {
			return firstError(err, say(list...))
		}
		return err
	}, show)
}

// answer is answers of one thing.
func answer[T any](a *App, cmd *cobra.Command, do func(ctx context.Context, args []string) (T, error), show func(w *page, v T)) *cobra.Command {
	return answers(a, cmd, func(ctx context.Context, args []string) ([]T, error) {
		v, err := do(ctx, args)
		if err != nil {
			return nil, err
		}
		return []T{v}, nil
	}, func(w *page, list []T) {
		for _, v := range list {
			show(w, v)
		}
	})
}

// or has cmd do what another command does when a flag is given.
func or(a *App, cmd *cobra.Command, flag *bool, when string, other *cobra.Command) *cobra.Command {
	usual, instead := cmd.RunE, other.RunE
	for _, r := range a.results[other] {
		r.When = when
		a.results[cmd] = append(a.results[cmd], r)
	}
	delete(a.results, other)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *flag {
			return instead(cmd, args)
		}
		return usual(cmd, args)
	}
	return cmd
}

// several are the errors of one command, in order. Its status is that of the first.
type several []error

func (s several) Error() string   { return errors.Join(s...).Error() }
func (s several) Unwrap() []error { return s }

// together returns those of errs that aren't nil, as one error.
func together(errs ...error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(errs) > 1 {
		return several(errs)
	}
	return firstError(errs...)
}

// end tells what is left to tell of a command that ended with err, and returns its
// exit status.
func (a *App) end(cmd *cobra.Command, err error) int {
	status := statusOf(cmd, err)
	errs := []error{err}
	if all, ok := err.(several); ok {
		errs = all
	}
	for _, err := range errs {
		if _, told := errors.AsType[exitStatus](err); told || err == nil {
			continue
		}
		if a.json {
			e := *banger.AsError(err)
			e.Message = err.Error() // err's own text: it may be wrapped around e
			a.doc.Errors = append(a.doc.Errors, &e)
		} else {
			a.printError(err)
		}
	}
	if a.json && (a.doc.due || len(a.doc.Errors) > 0) {
		if err := a.doc.write(a.Out); err != nil && !errors.Is(err, syscall.EPIPE) {
			a.printError(banger.Errorf(banger.CodeUnavailable, "standard output: %w", err))
			return ExitUnavailable
		}
	}
	return status
}

// statusOf is the exit status of a command that ended with err.
func statusOf(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[exitStatus](err); ok {
		return int(s)
	}
	code := banger.CodeOf(err)
	if cmd.Annotations[guestStatus] != "" && code != banger.CodeCanceled {
		return ExitOwn
	}
	return exitOf(code)
}

// printError tells a person what went wrong.
func (a *App) printError(err error) {
	e := banger.AsError(err)
	w := a.view.page(a.Err)
	text := w.paint(alarm, "banger:") + " " + w.commands(err.Error()) // err's own text: it may be wrapped around e
	if e.Hint != "" {
		text += "\n  " + w.commands(e.Hint)
	}
	if e.Op != "" {
		text += "\n  " + w.paint(faint, "operation "+e.Op)
	}
	if e.Code == banger.CodeInternal && e.Hint == "" {
		text += w.commands("\n  this may be a bug in banger: please report it with what `banger doctor --report` prints")
	}
	_, _ = fmt.Fprintln(w, text)
}

// note tells a person something beside the answer. With --json it is only told where
// a person looks.
func (a *App) note(format string, args ...any) {
	if _, tty := terminal(a.Err); tty || !a.json {
		tell(a, format+"\n", args...)
	}
}

// asksJSON reports whether a command line that can't be read asks for --json.
func asksJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(arg string) bool { return arg == "--json" || strings.HasPrefix(arg, "--json=t") })
}

// tell writes a text for a person, who sees that it is banger's.
func tell(a *App, format string, args ...any) {
	w := a.view.page(a.Err)
	_, _ = fmt.Fprint(w, w.paint(faint, "banger:")+" "+w.commands(fmt.Sprintf(format, args...)))
}
