package cli

import (
	"regexp"
	"slices"

	"github.com/spf13/cobra"
)

// short are the commands of vm that stand at the top, too, by their names there.
func short(a *App) []*cobra.Command {
	ps, rm := vmListCommand(a), vmDeleteCommand(a)
	ps.Use, ps.Aliases = "ps", []string{"list", "ls"}
	rm.Use, rm.Aliases = "rm VM...", []string{"delete"}
	all := []*cobra.Command{vmRunCommand(a), vmExecCommand(a), ps, vmAttachCommand(a), vmLogsCommand(a), vmCpCommand(a), vmStartCommand(a), vmStopCommand(a), rm}
	for _, c := range all {
		c.Example = shorten(c.Example)
	}
	return all
}

var vmVerb = regexp.MustCompile(`banger vm ([a-z]+)`)

// shorten writes commands as they are typed at the top.
func shorten(text string) string {
	return vmVerb.ReplaceAllStringFunc(text, func(long string) string {
		switch verb := long[len("banger vm "):]; {
		case verb == "list":
			return "banger ps"
		case verb == "delete":
			return "banger rm"
		case slices.Contains([]string{"run", "exec", "attach", "cp", "logs", "start", "stop"}, verb):
			return "banger " + verb
		}
		return long
	})
}
