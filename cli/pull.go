package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"banger"
)

// pullFlag says when the image of a new VM is got from a registry.
type pullFlag string

var pulls = []string{"always", "missing", "never"}

func (f *pullFlag) add(fs *pflag.FlagSet) {
	*f = "missing"
	fs.Var(f, "pull", `when to get --image from a registry: "always", "missing" or "never"`)
}

// provide gets the image of a new VM from a registry, if it is one of those and is to be got.
// Those that this host can build of packages aren't.
func (f *pullFlag) provide(ctx context.Context, a *App, s banger.Spec, show *progress) error {
	if s.Image == "" || *f == "never" {
		return nil
	}
	if *f == "missing" {
		if _, err := a.System().Missing(ctx, s); banger.CodeOf(err) != banger.CodeNotFound {
			return err // it is here or can be built
		}
		if _, err := a.Images().Image(ctx, s.Image); banger.CodeOf(err) != banger.CodeNotFound {
			return err // it is the kernel that isn't there
		}
	}
	_, err := pullImage(ctx, a, banger.Pull{Ref: s.Image}, show)
	return err
}

// Set implements pflag.Value.
func (f *pullFlag) Set(text string) error {
	if !slices.Contains(pulls, text) {
		return fmt.Errorf("%q isn't one of %s", text, strings.Join(pulls, ", "))
	}
	*f = pullFlag(text)
	return nil
}

// String implements pflag.Value.
func (f *pullFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *pullFlag) Type() string { return "when" }
