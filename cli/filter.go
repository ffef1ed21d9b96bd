package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"banger"
)

// labels are a flag's labels of a VM: KEY=VALUE, or KEY alone.
type labels map[string]string

// Set implements pflag.Value.
func (l labels) Set(text string) error {
	key, value, _ := strings.Cut(text, "=")
	if key == "" {
		return fmt.Errorf("%q isn't a label: write KEY=VALUE", text)
	}
	l[key] = value
	return nil
}

// String implements pflag.Value.
func (l labels) String() string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(l)) {
		all = append(all, strings.TrimSuffix(key+"="+l[key], "="))
	}
	return strings.Join(all, ", ")
}

// Type implements pflag.Value.
func (l labels) Type() string { return "KEY=VALUE" }

// filter is a flag that chooses VMs: those that fit all it was given.
type filter struct {
	text []string
	fits []func(banger.VM) bool
}

// Set implements pflag.Value.
func (f *filter) Set(text string) error {
	kind, want, _ := strings.Cut(text, "=")
	var fits func(banger.VM) bool
	switch {
	case kind == "label" && want != "":
		key, value, exact := strings.Cut(want, "=")
		fits = func(vm banger.VM) bool {
			got, has := vm.Spec.Labels[key]
			return has && (!exact || got == value)
		}
	case kind == "name" && want != "":
		fits = func(vm banger.VM) bool { return strings.Contains(vm.Spec.Name, want) }
	case (kind == "state" || kind == "status") && want != "":
		fits = func(vm banger.VM) bool { return string(vm.State) == want }
	case kind == "image" && want != "":
		fits = func(vm banger.VM) bool { return vm.Spec.Image == want }
	default:
		return fmt.Errorf("%q isn't a filter: use label=KEY, label=KEY=VALUE, name=PART, state=running or image=NAME", text)
	}
	f.text, f.fits = append(f.text, text), append(f.fits, fits)
	return nil
}

// String implements pflag.Value.
func (f *filter) String() string { return strings.Join(f.text, " ") }

// Type implements pflag.Value.
func (f *filter) Type() string { return "filter" }

// of returns those of vms that fit.
func (f *filter) of(vms []banger.VM) []banger.VM {
	return slices.DeleteFunc(vms, func(vm banger.VM) bool {
		return slices.ContainsFunc(f.fits, func(fits func(banger.VM) bool) bool { return !fits(vm) })
	})
}
