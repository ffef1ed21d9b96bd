package cli

import (
	"context"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"banger"
)

// sideBySide is how many VMs one command works on at a time.
const sideBySide = 16

// each does something with every VM that refs name: they are resolved against
// one look at all VMs, each VM is done once, and all side by side. The results
// come in the order in which the VMs were named first; one that fails doesn't
// keep the others from it.
func each[T any](ctx context.Context, a *App, refs []string, do func(ctx context.Context, vm banger.VM) (T, error)) ([]T, error) {
	vms, err := a.VMs.VMs(ctx)
	if err != nil {
		return []T{}, err
	}
	var ids []string
	var named []*banger.VM // nil: the ref named none
	errs := make([]error, 0, len(refs))
	for _, ref := range refs {
		vm, err := banger.FindVM(ref, func(yield func(*banger.VM) bool) {
			for i := range vms {
				if !yield(&vms[i]) {
					return
				}
			}
		})
		if err == nil && slices.Contains(ids, vm.ID) {
			continue
		}
		if err == nil {
			ids = append(ids, vm.ID)
		}
		named, errs = append(named, vm), append(errs, err)
	}
	results := make([]T, len(named))
	slots := make(chan struct{}, sideBySide)
	var wg sync.WaitGroup
	for i, vm := range named {
		if vm == nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i], errs[i] = do(ctx, *vm)
		})
	}
	wg.Wait()
	good := []T{}
	for i, r := range results {
		if errs[i] == nil {
			good = append(good, r)
		}
	}
	return good, a.tell(errs)
}

// tell prints what went wrong, in order, and returns an error with the status of
// the first; a single error it leaves to be printed.
func (a *App) tell(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) < 2 {
		return firstError(errs...)
	}
	for _, err := range errs {
		a.printError(err)
	}
	return exitStatus(exitOf(banger.CodeOf(errs[0])))
}

// eachVM is a command that does something to the VMs it names and prints their
// names.
func eachVM(a *App, cmd *cobra.Command, do func(ctx context.Context, vm banger.VM) (banger.VM, error)) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = nargs(1, -1), a.completeVMs(0)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		vms, err := each(ctx, a, args, do)
		return firstError(a.printNames(vms, nil), err)
	}
	return cmd
}
