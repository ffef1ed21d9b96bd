package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func deleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:               "delete VM...",
		Aliases:           []string{"rm"},
		Short:             "End VMs and delete all they had, their disks too",
		Long:              "Ends VMs in whatever state they are and deletes all they had, their disks too.\nThere is no way back.",
		Example:           "  banger vm delete web db",
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.removed(each(ctx, a, args, func(ctx context.Context, vm banger.VM) (string, error) {
				return vm.Spec.Name, a.VMs.DeleteVM(ctx, vm.ID)
			}))
		},
	}
}

// removed prints what was deleted, and passes err on.
func (a *App) removed(refs []string, err error) error {
	if refs == nil {
		refs = []string{}
	}
	return firstError(a.print(refs, func(w io.Writer) {
		for _, ref := range refs {
			_, _ = fmt.Fprintln(w, ref)
		}
	}), err)
}

// confirm asks a person. Without one to ask it refuses.
func (a *App) confirm(format string, args ...any) error {
	if _, tty := terminal(a.In); !tty {
		return banger.Errorf(banger.CodeInvalid, "this would "+format, args...).WithHint("there is no terminal to ask on: --force does it without asking")
	}
	_, _ = fmt.Fprintf(a.Err, "banger: "+format+"? [y/N] ", args...)
	answer, _ := bufio.NewReader(a.In).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return banger.Errorf(banger.CodeCanceled, "nothing was done")
	}
	return nil
}

// firstError returns the first of its arguments that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
