package cli

import (
	"github.com/spf13/cobra"

	"banger"
	"banger/config"
)

// Command returns all commands, to make the reference, manual pages and completions
// from. They can't be run. results tells which types a command's results have with
// --json.
func Command() (root *cobra.Command, results func(*cobra.Command) []Result) {
	a := &App{}
	root = a.root()
	return root, func(cmd *cobra.Command) []Result { return a.results[cmd] }
}

// Commands are listed in the order in which they are added: what is used most comes
// first.
func init() { cobra.EnableCommandSorting = false }

// fiveThings are what people do.
const fiveThings = `  banger run                            a shell in a fresh VM
  banger run --rm ./repo -- make test   a command in a copy of a repository; then the VM is deleted
  banger exec NAME                      a shell in a VM that runs, or a command
  banger ps                             the VMs there are; banger rm NAME deletes one
  banger doctor                         what works on this host, and how to mend the rest`

// rootHelp is the help of banger itself, which begins with examples. The help of
// other commands has cobra's order.
const rootHelp = `{{if .HasParent}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}{{else}}{{.Short}}.

Five things people do:
{{.Example}}
{{range $group := .Groups}}
{{$group.Title}}
{{range $.Commands}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}  {{rpad .Name .NamePadding}} {{.Short}}
{{end}}{{end}}{{end}}
"banger COMMAND --help" has examples of each. --json prints what programs read.
Tables fit your terminal; in a pipe they have all columns.
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

// settings returns the settings of this host, or empty ones.
func settings(a *App) config.Config {
	if a.Config == nil {
		return config.Config{}
	}
	c, _ := a.Config() // who needs the settings reports the error
	return c
}

// defaulted ends a flag's help with its default on this host.
func defaulted(usage, value string) string {
	if value == "" || value == "0" || value == "0M" {
		return usage + " (default: config.toml's)"
	}
	return usage + " (default " + value + ")"
}

// specWords describes a machine in one line.
func specWords(e banger.Event) string { return "spec: " + printable(e.Message, 300) }
