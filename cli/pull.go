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

// pullFlags are the flags of that.
type pullFlags struct {
	when     pullFlag
	insecure bool
}

func (f *pullFlags) add(fs *pflag.FlagSet) {
	f.when = "missing"
	fs.Var(&f.when, "pull", `when to get --image from a registry: "always", "missing" or "never"`)
	fs.BoolVar(&f.insecure, "insecure", false, "ask the registry of --image without TLS: anybody in between can send another image")
}

// lacking gets the image of a new VM from a registry, if it is one of those and is to be got,
// and returns what else the VM needs that isn't here. Images that this host can build of
// packages aren't got.
func (f *pullFlags) lacking(ctx context.Context, a *App, s banger.Spec, show *progress) ([]banger.Missing, error) {
	pull := s.Image != "" && f.when == "always"
	if !pull {
		missing, err := a.System().Missing(ctx, s)
		if banger.CodeOf(err) != banger.CodeNotFound || s.Image == "" || f.when == "never" {
			return missing, err
		}
		if _, here := a.Images().Image(ctx, s.Image); banger.CodeOf(here) != banger.CodeNotFound {
			return nil, err // it is the kernel that isn't there
		}
	}
	if _, err := pullImage(ctx, a, banger.Pull{Ref: s.Image, Insecure: f.insecure}, show); err != nil {
		return nil, err
	}
	return a.System().Missing(ctx, s)
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
