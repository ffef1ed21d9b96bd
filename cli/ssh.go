package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/cli/sshd"
)

// SSH is where things are that ssh needs.
type SSH struct {
	Program string // banger's own path, for ssh to run it
	Dir     string // host keys, known hosts and the configuration for ssh
	Config  string // the user's own configuration of ssh
}

func (s SSH) keys() sshd.Keys { return sshd.Keys{Dir: s.Dir} }

// domain is what VMs' names end with for ssh.
const domain = ".vm"

// sshUser is the user of ssh who stands for the image's own, else root.
const sshUser = "default"

// options are what ssh needs to know of VMs, as lines of ssh_config(5).
func (s SSH) options() []string {
	return []string{
		"ProxyCommand " + proxyPath(s.Program) + " ssh-proxy -- '%h'",
		"User " + sshUser,
		`UserKnownHostsFile "` + strings.ReplaceAll(s.keys().KnownHosts(), "%", "%%") + `"`,
		"HostKeyAlgorithms ssh-ed25519",
		"StrictHostKeyChecking yes",
		"CheckHostIP no",
		"UpdateHostKeys no",
		"ForwardAgent no", // what a user allows for all hosts isn't meant for what runs in a VM
		"ForwardX11 no",
	}
}

// proxyPath is a path for ProxyCommand: a shell runs it, after ssh has replaced %h.
func proxyPath(path string) string {
	return strings.ReplaceAll("'"+strings.ReplaceAll(path, "'", `'\''`)+"'", "%", "%%")
}

// errNoJSON is for --json where bytes of ssh come.
var errNoJSON = banger.Errorf(banger.CodeInvalid, "ssh has no --json: what comes is the other side's").WithHint("`banger exec --json` runs a command")

func sshCommand(a *App) *cobra.Command {
	var agent, noShell, tty, noTTY bool
	var local, remote, dynamic []string
	var user string
	var cmd *cobra.Command
	cmd = gives(a, &cobra.Command{
		Use:   "ssh [flags] VM [COMMAND...]",
		Short: "Open a VM with ssh",
		Long: `Runs ssh with what it needs to reach a VM. A stopped VM is started. The image needs no
SSH server, and the VM no network: ssh ends in banger, which asks the VM's agent.

It begins in the user's home. For a command alone "banger exec" is quicker; ssh is for
forwards, for an agent's keys, and for a shell with ssh's own escapes.

After "banger ssh-config --install" also "ssh VM.vm", scp, sftp, rsync, git, sshfs and
editors reach every VM.
` + statuses,
		Example: `  banger ssh web
  banger ssh web -- make test
  banger ssh -L 8080:localhost:80 -N web
  banger ssh -A web -- git push`,
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(1),
		Annotations:       map[string]string{guestStatus: "yes"},
	}, nil, func(ctx context.Context, args []string, _ func(...Ran) error) error {
		if a.json {
			return errNoJSON
		}
		argv, err := commandAfter(cmd, args[1:])
		if err != nil {
			return err
		}
		look, stop := interruptible(ctx)
		vm, err := a.VMs().VM(look, args[0])
		stop()
		if err != nil {
			return err
		}
		var line []string // of an option's values ssh takes the first
		for flag, on := range map[string]bool{"-A": agent, "-N": noShell, "-t": tty, "-T": noTTY} {
			if on {
				line = append(line, flag)
			}
		}
		for flag, all := range map[string][]string{"-L": local, "-R": remote, "-D": dynamic} {
			for _, f := range all {
				line = append(line, flag, f)
			}
		}
		if user != "" {
			line = append(line, "-o", "User="+user)
		}
		for _, o := range a.SSH.options() {
			key, value, _ := strings.Cut(o, " ")
			line = append(line, "-o", key+"="+value)
		}
		line = append(line, "--", vm.Spec.Name+domain)
		return runSSH(ctx, a, append(line, argv...))
	}, ranNothing)
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.BoolVarP(&agent, "agent", "A", false, "let programs in the VM use the keys of your ssh agent")
	fs.StringArrayVarP(&local, "local", "L", nil, "forward a port or socket of this host to the VM: [host:]port:host:port (repeatable)")
	fs.StringArrayVarP(&remote, "remote", "R", nil, "forward a port or socket of the VM to this host (repeatable)")
	fs.StringArrayVarP(&dynamic, "dynamic", "D", nil, "be a SOCKS proxy into the VM at this port (repeatable)")
	fs.BoolVarP(&noShell, "no-command", "N", false, "run nothing, only forward")
	fs.BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	fs.BoolVarP(&noTTY, "no-tty", "T", false, "give the command no terminal")
	fs.StringVarP(&user, "user", "u", "", "the user in the VM (default: the image's, else root)")
	return cmd
}

// runSSH runs ssh with the caller's streams and ends with its status.
func runSSH(ctx context.Context, a *App, args []string) error {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "there is no ssh on this host").WithHint("install it (openssh-client), or use `banger exec`")
	}
	_, done := forward(func() {}) // ssh gets the terminal's signals itself; banger waits for it
	defer done()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	err = cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		if code := e.ExitCode(); code > 0 {
			return exitStatus(code)
		}
		return exitStatus(255)
	}
	return err
}

// configText is the configuration for ssh. An ssh of before 9.6 takes any character in a
// host's name: one that would end the quotes around it is no VM's.
func (s SSH) configText() string {
	text := "# Every VM of banger, by its name and " + domain + ". The user \"" + sshUser + "\" is the image's own, else root.\nHost *" + domain + " \"!*'*\"\n"
	for _, o := range s.options() {
		text += "    " + o + "\n"
	}
	return text
}

// writeConfig writes the configuration to its file, which it returns.
func (s SSH) writeConfig() (string, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", err
	}
	path := s.Dir + "/config"
	if err := os.WriteFile(path+".new", []byte(s.configText()), 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}
