package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// ends are the names of commands that end or delete something. They are never guessed:
// only who types one of their own names is told of them.
var ends = []string{"delete", "rm", "prune", "kill", "stop", "restart", "gc", "cancel", "uninstall"}

// otherWords are commands of other tools that banger does in another way, with what to
// do instead.
var otherWords = map[string]string{
	"bash":      "`banger exec VM` runs a shell in a VM",
	"build":     "`banger image build` makes an image of Debian packages; `banger image import` makes one of a root file system",
	"clone":     "`banger image warm IMAGE --after COMMAND` keeps an image with what a command made in it; each VM of it is a copy",
	"commit":    "`banger image save VM IMAGE` makes an image of a stopped VM; `banger image warm IMAGE --after COMMAND` keeps one with what a command made in it",
	"compose":   "each VM is made by `banger run`",
	"console":   "`banger vm logs VM` prints a VM's console; `banger exec VM` runs a shell in it",
	"container": "banger has VMs: `banger ps` lists them",
	"context":   "there is one daemon for each user: `banger daemon status`",
	"deploy":    "`banger run ./DIR -- COMMAND` runs a command in a VM with a copy of a directory",
	"diff":      "`banger workspace diff VM` shows what a VM changed in a copy of a repository",
	"disk":      "a VM has one disk: `banger vm set --disk-size 40G VM` makes it larger",
	"down":      "`banger stop VM` stops a VM and keeps its disk",
	"edit":      "`banger vm set` changes a VM; `banger config show` names the file of the settings",
	"export":    "`banger cp VM:/ - > root.tar` prints the files of a VM as a tar",
	"history":   "`banger image history IMAGE` shows how an image was made",
	"images":    "`banger image list` lists the images",
	"import":    "`banger image import --name NAME FILE` makes an image of a file",
	"info":      "`banger doctor` tells of this host, `banger vm show VM` of a VM",
	"instance":  "banger has VMs: `banger ps` lists them",
	"launch":    "`banger run` makes a VM",
	"load":      "`banger image import` makes an image of what `docker save` or `docker export` prints",
	"login":     "banger has no accounts: `banger exec VM` runs a shell in a VM",
	"machine":   "banger has VMs: `banger ps` lists them",
	"network":   "a VM's network is chosen when it is made: `banger run --net none`",
	"pause":     "`banger vm kill --signal STOP VM` freezes a VM, `banger vm kill --signal CONT VM` lets it go on",
	"port":      "`banger ports VM` lists what listens in a VM, `banger forward VM 3000` leads a port of this host there",
	"prune":     "`banger system prune` deletes what can be had again and keeps VMs; `banger vm prune` deletes stopped VMs",
	"pull":      "`banger image pull` gets an image from a registry, `banger kernel pull` fetches a kernel",
	"push":      "`banger image push IMAGE` sends an image to a registry",
	"reboot":    "`banger vm restart VM` restarts a VM",
	"resume":    "`banger vm kill --signal CONT VM` lets a frozen VM go on",
	"rmi":       "`banger image delete IMAGE` deletes an image",
	"save":      "`banger image export IMAGE FILE` writes an image to a file; `banger image save VM IMAGE` makes one of a stopped VM",
	"scale":     "`banger vm set` changes a VM's CPUs, memory and disk",
	"search":    "banger doesn't search registries; `banger image pull` gets an image by its name, `banger image list` lists those of this host",
	"secrets":   "`banger run --env-file FILE` gives variables to a command",
	"show-ssh":  "`banger ssh-config` prints what ssh must know to reach VMs",
	"snapshot":  "`banger image save VM IMAGE` makes an image of a stopped VM; `banger image warm IMAGE --after COMMAND` keeps one with what a command made in it",
	"status":    "`banger ps` lists the VMs, `banger vm show VM` tells of one, `banger daemon status` of the daemon",
	"suspend":   "`banger vm kill --signal STOP VM` freezes a VM, `banger vm kill --signal CONT VM` lets it go on",
	"tag":       "`banger image tag IMAGE NAME` gives an image another name",
	"top":       "`banger vm stats` shows what VMs use of this host, `banger command list VM` what was started in one, `banger exec VM -- top` all that runs there",
	"tunnel":    "`banger ssh -N -D 1080 VM` is a proxy into a VM's network; `banger ports VM` lists what listens in it",
	"unpause":   "`banger vm kill --signal CONT VM` lets a frozen VM go on",
	"up":        "`banger run` makes a VM, `banger start VM` starts one that is stopped",
	"update":    "`banger vm set` changes a VM's CPUs, memory and disk",
	"volume":    "a VM keeps its files on its own disk; `banger cp` copies files in and out",
	"volumes":   "a VM keeps its files on its own disk; `banger cp` copies files in and out",
	"wait":      "`banger attach VM` waits for a command that was left running; `banger vm health VM` asks a VM for a sign of life",
}

// otherFlags are flags of other tools that banger has no use for, with what to do
// instead. Where command is empty, any command may have been given them.
var otherFlags = []struct{ command, flags, says string }{
	{"rm", "v volumes r rf", "`banger rm VM` deletes a VM with its disk, running or not"},
	{"cp", "a archive", "directories and modes are copied anyway; --user says whose the files are in the VM"},
	{"ps", "n last l latest s size no-trunc", "`banger ps` shows all VMs, `banger ps --json` all that is known of each"},
	{"", "v volume mount tmpfs", "a VM sees no directory of the host: `banger run ./DIR` copies one into a new VM, `banger cp` copies files in and out"},
	{"", "p publish P publish-all port-forward expose", "`banger vm set -p 8080:80 VM` publishes a port, `banger forward VM 3000` leads to one until Ctrl-C, `banger ports VM` lists them"},
	{"", "hostname", "a VM's name is its host name: --name"},
	{"", "privileged cap-add cap-drop security-opt device", "a command in a VM is root of the whole VM, unless --user says otherwise"},
	{"", "restart", "a VM that ended stays stopped; `banger start VM` starts it"},
	{"", "read-only", "a VM has a disk of its own: --rm deletes it at the end"},
	{"", "dns dns-search add-host", "a VM asks the host's name servers; it has an /etc/hosts of its own, which a command in it may change"},
	{"", "ulimit shm-size sysctl", "limits are set inside, as on any machine: `banger run -- sh -c 'ulimit -n 4096; COMMAND'`"},
	{"", "platform arch", "VMs have the architecture of this host"},
	{"", "gpus", "a VM has no GPU"},
	{"", "format", "--json prints JSON, of which jq takes what you want"},
	{"run", "template", "an image is chosen by --image: `banger image list`"},
	{"logs", "since until t timestamps", "the end of it: `banger logs --tail 100 VM`"},
	{"start", "name", "a VM gets its name when it is made: `banger vm create --name NAME`"},
}

// helpOrUsage is what a command does that only holds others.
func (a *App) helpOrUsage(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) > 0:
		return unknown(cmd, args[0])
	case a.json:
		return banger.Errorf(banger.CodeInvalid, "%s: a command is missing", cmd.CommandPath()).WithHint("`%s --help` lists them", cmd.CommandPath())
	}
	return cmd.Help()
}

// unknown is the error of a command that isn't there.
func unknown(cmd *cobra.Command, word string) error {
	err := banger.Errorf(banger.CodeInvalid, "%s has no command %q", cmd.CommandPath(), word)
	if says := otherWords[word]; says != "" && (cmd == cmd.Root() || cmd.Name() == "vm") {
		return err.WithHint("%s", says)
	}
	if cmd.Name() == "config" && word == "set" {
		return err.WithHint("settings are changed in a file, which `banger config check` names")
	}
	if c := meant(cmd, word); c != nil {
		return err.WithHint("did you mean `%s`?", c.CommandPath())
	}
	return err.WithHint("`%s --help` lists them", cmd.CommandPath())
}

// meant guesses which command was meant by a word, nil if none. What ends or deletes
// something is never guessed.
func meant(cmd *cobra.Command, word string) *cobra.Command {
	near := cmd.Commands()
	if vm, _, err := cmd.Root().Find([]string{"vm"}); err == nil && cmd == cmd.Root() {
		near = slices.Concat(near, vm.Commands())
	} else if cmd == vm {
		near = slices.Concat(near, cmd.Root().Commands())
	}
	for _, c := range near {
		if c.Name() == word || c.HasAlias(word) || slices.Contains(c.SuggestFor, word) {
			return c
		}
	}
	if len(word) < 3 {
		return nil // like everything
	}
	for letters := 1; letters <= 2; letters++ {
		cmd.SuggestionsMinimumDistance = letters
		for _, name := range cmd.SuggestionsFor(word) {
			i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
			if i >= 0 && !slices.Contains(ends, name) {
				return cmd.Commands()[i]
			}
		}
	}
	return nil
}

// flagError is the error of a flag that can't be read.
func (a *App) flagError(cmd *cobra.Command, err error) error {
	a.json = a.json || asksJSON(a.args) // it may stand behind what is wrong
	if word := a.wordAfter(cmd); word != "" && cmd.HasSubCommands() {
		return unknown(cmd, word) // whose flag it may be
	}
	e := banger.Errorf(banger.CodeInvalid, "%w", err)
	if none, ok := errors.AsType[*pflag.NotExistError](err); ok {
		for _, o := range otherFlags {
			if (o.command == "" || o.command == cmd.Name()) && slices.Contains(strings.Fields(o.flags), none.GetSpecifiedName()) {
				return e.WithHint("%s", o.says)
			}
		}
	}
	return e.WithHint("`%s --help` lists the flags; the flags of a command in the VM go after --", cmd.CommandPath())
}

// wordAfter returns the word of the command line that follows those of a command.
func (a *App) wordAfter(cmd *cobra.Command) string {
	n := len(strings.Fields(cmd.CommandPath())) - 1
	for _, arg := range a.args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		if n == 0 {
			return arg
		}
		n--
	}
	return ""
}

// spelled makes one flag of several spellings.
func spelled(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "cpus":
		name = "vcpu"
	case "network":
		name = "net"
	case "disk":
		name = "disk-size"
	case "time":
		name = "timeout"
	}
	return pflag.NormalizedName(name)
}

// accept has a command take a flag that other tools need and banger doesn't.
func accept(cmd *cobra.Command, name, short, why string) {
	cmd.Flags().BoolP(name, short, false, why)
	_ = cmd.Flags().MarkHidden(name)
}

// commandAfter returns what is to be run in a VM, where rest is what follows the first
// word of a command whose flags end at that word. Flags that come next are banger's,
// up to the command or a --.
func commandAfter(cmd *cobra.Command, rest []string) ([]string, error) {
	switch {
	case len(rest) == 0:
		return nil, nil
	case rest[0] == "--":
		return rest[1:], nil
	case len(rest[0]) < 2 || rest[0][0] != '-':
		return rest, nil
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return nil, cmd.FlagErrorFunc()(cmd, err)
	}
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return nil, pflag.ErrHelp
	}
	return cmd.Flags().Args(), nil
}
