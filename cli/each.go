package cli

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"banger"
)

// sideBySide is how many VMs one command works on at a time.
const sideBySide = 16

// each calls do for every VM that refs name, once for each VM and for several VMs at
// the same time. The results are in the order in which the VMs were first named. An
// error of one VM doesn't stop the others.
func each[T any](ctx context.Context, a *App, refs []string, do func(ctx context.Context, vm banger.VM) (T, error)) ([]T, error) {
	vms, err := a.VMs().VMs(ctx)
	if err != nil {
		return nil, err
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
	return good, together(errs...)
}

// eachVM is a command that does something to the VMs it names and prints their
// names.
func eachVM(a *App, cmd *cobra.Command, do func(ctx context.Context, vm banger.VM) (banger.VM, error)) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = nargs(1, -1), a.completeVMs(0)
	return answers(a, cmd, func(ctx context.Context, args []string) ([]banger.VM, error) { return each(ctx, a, args, do) }, names)
}

// names prints the names of VMs.
func names(w *page, vms []banger.VM) {
	for _, vm := range vms {
		_, _ = fmt.Fprintln(w, vm.Spec.Name)
	}
}

// name prints that of one.
func name(w *page, vm banger.VM) { names(w, []banger.VM{vm}) }
