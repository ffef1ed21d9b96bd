package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/config"
)

// Command returns the whole command line, for what is made of it: reference,
// manual pages, completions. Nothing in it can be run.
func Command() *cobra.Command {
	a := &App{}
	return a.root()
}

// fiveThings are what people do.
const fiveThings = `  banger vm run                            a shell in a fresh VM
  banger vm run --rm ./repo -- make test   a command in a copy of a repository, and nothing is left
  banger vm exec NAME                      back into a VM that stayed; after -- a command
  banger ps                                what there is; banger vm delete NAME is rid of it
  banger doctor                            what works on this host, and what mends the rest`

// rootHelp is the help of banger itself: what people do comes first. The others
// have cobra's order.
const rootHelp = `{{if .HasParent}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}{{else}}{{.Short}}.

Five things people do:
{{.Example}}
{{range $group := .Groups}}
{{$group.Title}}
{{range $.Commands}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}  {{rpad .Name .NamePadding}} {{.Short}}
{{end}}{{end}}{{end}}
"banger COMMAND --help" has examples of each. --json prints what programs read.
` + statuses + `
{{end}}`

// The groups of commands.
const (
	groupVMs    = "vms"
	groupMakes  = "makes"
	groupSystem = "system"
)

// grouped puts commands into a group.
func grouped(id string, cmds ...*cobra.Command) []*cobra.Command {
	for _, c := range cmds {
		c.GroupID = id
	}
	return cmds
}

// settings returns the settings of this host; without any, those that say nothing.
func settings(a *App) config.Config {
	if a.Config == nil {
		return config.Config{}
	}
	c, _ := a.Config() // one that is wrong is told when it is needed
	return c
}

// defaulted ends a flag's help with what holds on this host when it isn't given.
func defaulted(usage, value string) string {
	if value == "" || value == "0" || value == "0M" {
		return usage + " (default: config.toml's)"
	}
	return usage + " (default " + value + ")"
}

// specWords describes a machine in one line.
func specWords(e banger.Event) string { return "spec: " + printable(e.Message, 300) }

// completeKernels completes kernel names; without a daemon it knows those that
// can be fetched.
func (a *App) completeKernels(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names := map[string]bool{"debian-12-cloud": true, "debian-13-cloud": true}
	if kernels, err := a.Catalog.Kernels(cmd.Context()); err == nil {
		for _, k := range kernels {
			names[k.Name] = true
		}
	}
	var list []string
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			list = append(list, name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
