package cli

import (
	"fmt"
	"slices"
	"strings"
)

// initFlag says what a VM's first process becomes.
type initFlag string

var inits = []string{"auto", "image", "agent"}

// Set implements pflag.Value.
func (f *initFlag) Set(text string) error {
	if !slices.Contains(inits, text) {
		return fmt.Errorf("%q isn't one of %s", text, strings.Join(inits, ", "))
	}
	*f = initFlag(text)
	return nil
}

// String implements pflag.Value.
func (f *initFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *initFlag) Type() string { return "who" }
