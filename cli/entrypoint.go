package cli

import "banger"

// entrypoint is the flag by which a command runs without the image's own entrypoint.
type entrypoint struct {
	given   bool
	program string
}

// command is what runs in a VM: as docker does it, another entrypoint leaves out the
// image's own command, too. Nothing means the user's shell.
func (e entrypoint) command(c *banger.ImageConfig, argv []string) []string {
	switch {
	case !e.given:
		return c.Command(argv)
	case e.program != "":
		return append([]string{e.program}, argv...)
	}
	return argv
}

// Set implements pflag.Value.
func (e *entrypoint) Set(text string) error {
	*e = entrypoint{true, text}
	return nil
}

// String implements pflag.Value.
func (e *entrypoint) String() string { return e.program }

// Type implements pflag.Value.
func (e *entrypoint) Type() string { return "program" }
