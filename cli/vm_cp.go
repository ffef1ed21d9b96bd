package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/tartree"
)

func vmCpCommand(a *App) *cobra.Command {
	var user string
	var quiet bool
	cmd := answers(a, &cobra.Command{
		Use:     "cp [flags] SOURCE... DEST",
		Aliases: []string{"copy"},
		Short:   "Copy files into a running VM, or out of it",
		Long: `Copies files and directories as cp -r does: into DEST if that is a directory, else
to that name. VM:PATH is a path in a VM; if it doesn't begin with /, it starts from
the VM's repository, else from /root. DIR/. is the content of DIR. A SOURCE or DEST
of - is a tar on standard input or output.

A file is replaced only once the new one is complete. Symbolic links are copied, not
followed. What comes out of a VM is written at DEST and nowhere else, belongs to you,
and never has the set-user-ID bit.`,
		Example: `  banger vm cp web:coverage.html .
  banger vm cp ./site/. web:/srv
  banger vm cp --user app .env conf web:/home/app/
  banger vm cp web:/var/log - | tar tv`,
		Args: nargs(2, -1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if strings.ContainsAny(prefix, "/:") {
				return nil, cobra.ShellCompDirectiveDefault // a file of this host's
			}
			vms, _ := a.completeVMs(0)(cmd, args, prefix)
			for i := range vms {
				vms[i] = strings.Replace(vms[i], "\t", ":\t", 1)
			}
			return vms, cobra.ShellCompDirectiveNoSpace
		},
	}, func(ctx context.Context, args []string) ([]Copied, error) {
		show := a.progress(quiet)
		defer show.end()
		last := len(args) - 1
		if args[last] == "-" && a.json {
			return nil, banger.Errorf(banger.CodeInvalid, "standard output can't have both a tar and JSON").WithHint("copy to a file, or leave --json out")
		}
		c := &copying{a: a, show: show, user: user}
		return c.all(ctx, args[:last], args[last])
	}, func(*page, []Copied) {})
	accept(cmd, "recursive", "r", "directories are copied anyway")
	cmd.Flags().StringVarP(&user, "user", "u", "", "write as this user of the guest, who owns the files (default: root)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// Copied is a source that was copied.
type Copied struct {
	Source string `json:"source"` // as it was given
	Dest   string `json:"dest"`   // as it was given
	Bytes  int64  `json:"bytes"`  // with what a tar has beside the files
}

// copying is the state of one cp command.
type copying struct {
	a    *App
	show *progress
	user string
	vm   banger.VM
	done int64 // bytes, of all sources
}

// all copies several sources to one place, and says which it has copied.
func (c *copying) all(ctx context.Context, sources []string, dest string) (done []Copied, err error) {
	ref, place, up := inVM(dest)
	for i, source := range sources {
		from, _, down := inVM(source)
		switch {
		case up == down:
			return nil, banger.Errorf(banger.CodeInvalid, "%s and %s: one of them must be in a VM and the other on this host", source, dest).
				WithHint("VM:PATH is a path in a VM; write ./ before a path on this host that has a colon")
		case down && i > 0 && from != ref:
			return nil, banger.Errorf(banger.CodeInvalid, "%s and %s: only one VM at a time can be copied from", sources[0], source)
		case down:
			ref = from
		}
	}
	switch {
	case len(sources) > 1 && dest == "-":
		return nil, banger.Errorf(banger.CodeInvalid, "standard output takes one source only")
	case !up && c.user != "":
		return nil, banger.Errorf(banger.CodeInvalid, "--user is for what goes into a VM; what comes out of one belongs to you")
	}
	if c.vm, err = c.a.VMs().VM(ctx, ref); err != nil {
		return nil, err
	}
	asked := dest
	place = c.path(place)
	if len(sources) > 1 { // it must be a directory
		place, dest = place+"/", dest+"/"
	}
	for _, source := range sources {
		before := c.done
		if up {
			err = c.put(ctx, source, place)
		} else {
			_, from, _ := inVM(source)
			err = c.get(ctx, c.path(from), dest)
		}
		if err != nil {
			return done, c.fault(ctx, source, err)
		}
		done = append(done, Copied{source, asked, c.done - before})
	}
	return done, nil
}

// inVM splits VM:PATH, as docker cp does: a slash before the colon makes it a path
// of this host.
func inVM(arg string) (ref, name string, ok bool) {
	ref, name, ok = strings.Cut(arg, ":")
	if !ok || ref == "" || strings.Contains(ref, "/") {
		return "", arg, false
	}
	return ref, name, true
}

// path makes a path in the VM absolute. It doesn't clean it: a slash or a dot at its
// end has a meaning.
func (c *copying) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	home := c.vm.Spec.Workspace
	if home == "" {
		home = filesParent
	}
	return home + "/" + name
}

// put copies a source of this host into the guest.
func (c *copying) put(ctx context.Context, source, dest string) error {
	client, opt := c.a.guest(c.vm), guest.PutOptions{User: c.user}
	if source == "-" {
		return client.Put(ctx, dest, io.TeeReader(c.a.In, c), opt)
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := tartree.Pack(io.MultiWriter(w, c), source)
		_ = w.CloseWithError(err)
		packed <- err
	}()
	err := client.Copy(ctx, tartree.Name(source), dest, r, opt)
	_ = r.CloseWithError(io.ErrClosedPipe)
	return cause(<-packed, err)
}

// get copies a source of the guest to this host.
func (c *copying) get(ctx context.Context, source, dest string) error {
	client := c.a.guest(c.vm)
	if dest == "-" {
		if _, tty := terminal(c.a.Out); tty {
			return banger.Errorf(banger.CodeInvalid, "a tar can't be written to a terminal").WithHint("pass it on: | tar x")
		}
		return client.Get(ctx, source, io.MultiWriter(c.a.Out, c))
	}
	place, err := tartree.At(dest, tartree.Name(source))
	if err != nil {
		return banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	place.Foreign = true
	r, w := io.Pipe()
	got := make(chan error, 1)
	go func() {
		err := client.Get(ctx, source, io.MultiWriter(w, c))
		_ = w.CloseWithError(err)
		got <- err
	}()
	err = tartree.Unpack(r, place)
	_ = r.CloseWithError(errors.Join(io.ErrClosedPipe, err))
	return cause(<-got, err)
}

// cause says why a copy stopped: the sender's error, unless the sender only stopped
// because the receiver had.
func cause(sender, receiver error) error {
	if sender == nil || errors.Is(sender, io.ErrClosedPipe) && receiver != nil {
		return receiver
	}
	return sender
}

// Write counts what passes.
func (c *copying) Write(p []byte) (int, error) {
	c.done += int64(len(p))
	c.show.event(banger.Event{VM: c.vm.ID, Stage: "copy", Done: c.done})
	return len(p), nil
}

// fault makes a banger.Error of the error that ended the copying of a source.
func (c *copying) fault(ctx context.Context, source string, err error) error {
	g, ours := errors.AsType[*guest.Error](err)
	what := fmt.Sprintf("copy %s", source)
	switch {
	case ctx.Err() != nil:
		return banger.Errorf(banger.CodeCanceled, "%s: %w", what, context.Cause(ctx))
	case ours && (g.Code == guest.CodeInvalid || g.Code == guest.CodeNotFound):
		return banger.Errorf(banger.Code(g.Code), "%s: in vm %s: %w", what, c.vm.Spec.Name, err)
	case ours:
		return banger.Errorf(banger.CodeUnavailable, "%s: the agent of vm %s: %w", what, c.vm.Spec.Name, err)
	case banger.CodeOf(err) == banger.CodeNotRunning:
		return err
	case banger.CodeOf(err) == banger.CodeInternal: // of this host's files
		return banger.Errorf(banger.CodeInvalid, "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
