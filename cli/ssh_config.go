package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger"
)

// SSHConfig is the configuration for ssh.
type SSHConfig struct {
	Config    string `json:"config"`    // its text
	File      string `json:"file"`      // the user's file that includes it, or is to
	Installed bool   `json:"installed"` // whether that file does
}

// The lines around what we add to the user's file. The second kind of beginning is of a
// file that wasn't there before.
const (
	sshBegin     = "# banger: begin (`banger ssh-config --uninstall` removes these lines)\n"
	sshBeginMade = "# banger: begin (`banger ssh-config --uninstall` removes these lines and this file)\n"
	sshEnd       = "# banger: end\n"
)

// maxSSHConfig bounds the user's file, in bytes.
const maxSSHConfig = 1 << 20

func sshConfigCommand(a *App) *cobra.Command {
	var install, uninstall bool
	cmd := answer(a, &cobra.Command{
		Use:   "ssh-config",
		Short: "Let ssh, scp, git and editors reach every VM",
		Long: `Prints what ssh must know to reach VMs as NAME.vm. With --install it writes that to a
file of its own and adds one Include of it to ~/.ssh/config, between two lines that say
so. --uninstall removes exactly those.

Then all that goes through ssh works, also with a stopped VM, which the connection
starts: ssh, scp, sftp, rsync, git, sshfs, remote editors. "ssh NAME.vm" is the image's
user, else root; "ssh dev@NAME.vm" is the user dev of the VM.`,
		Example: `  banger ssh-config --install
  ssh web.vm
  rsync -a ./src/ web.vm:src/
  git clone ssh://web.vm/srv/repo`,
		Args: cobra.NoArgs,
	}, func(ctx context.Context, args []string) (SSHConfig, error) {
		if install && uninstall {
			return SSHConfig{}, banger.Errorf(banger.CodeInvalid, "--install and --uninstall exclude each other").WithHint("leave one of them out")
		}
		c := SSHConfig{Config: a.SSH.configText(), File: a.SSH.Config}
		var err error
		switch {
		case install:
			err = a.SSH.install()
		case uninstall:
			err = a.SSH.uninstall()
		}
		if err != nil {
			return c, err
		}
		has, err := a.SSH.read()
		_, _, c.Installed = ours(has)
		if install {
			a.note("%s includes it now; `ssh NAME.vm` reaches a VM", c.File)
		}
		return c, err
	}, func(w *page, c SSHConfig) {
		if !install && !uninstall {
			_, _ = io.WriteString(w, c.Config)
		}
	})
	cmd.Flags().BoolVar(&install, "install", false, "include it in ~/.ssh/config")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it out again")
	return cmd
}

// ours finds our lines in the user's file.
func ours(has []byte) (from, to int, found bool) {
	for _, begin := range []string{sshBegin, sshBeginMade} {
		from = bytes.Index(has, []byte(begin))
		if from < 0 || from > 0 && has[from-1] != '\n' {
			continue
		}
		if n := bytes.Index(has[from:], []byte(sshEnd)); n >= 0 {
			return from, from + n + len(sshEnd), true
		}
	}
	return 0, 0, false
}

// read reads the user's file; one that isn't there is empty.
func (s SSH) read() ([]byte, error) {
	f, err := os.Open(s.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	has, err := io.ReadAll(io.LimitReader(f, maxSSHConfig+1))
	if len(has) > maxSSHConfig {
		err = banger.Errorf(banger.CodeInvalid, "%s has more than %s", s.Config, formatBytes(maxSSHConfig))
	}
	return has, err
}

// install adds our lines, or renews them. They come first: what stands after a Host line
// is about that host alone.
func (s SSH) install() error {
	path, err := s.writeConfig()
	if err != nil {
		return err
	}
	has, err := s.read()
	if err != nil {
		return err
	}
	begin := sshBegin
	if _, err := os.Stat(s.Config); errors.Is(err, fs.ErrNotExist) {
		begin = sshBeginMade
	}
	if from, to, found := ours(has); found {
		if bytes.HasPrefix(has[from:], []byte(sshBeginMade)) {
			begin = sshBeginMade
		}
		has = append(bytes.Clone(has[:from]), has[to:]...)
	}
	return s.write(append([]byte(begin+fmt.Sprintf("Include %q\n", path)+sshEnd), has...))
}

// uninstall removes our lines, and the file if it was made for them and has nothing else.
func (s SSH) uninstall() error {
	has, err := s.read()
	if err != nil {
		return err
	}
	from, to, found := ours(has)
	if !found {
		return nil
	}
	rest := append(bytes.Clone(has[:from]), has[to:]...)
	if len(rest) == 0 && bytes.HasPrefix(has[from:], []byte(sshBeginMade)) {
		return os.Remove(s.Config)
	}
	return s.write(rest)
}

// write replaces the user's file at once; a symbolic link stays one.
func (s SSH) write(content []byte) error {
	path := s.Config
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	mode := fs.FileMode(0o600)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config.banger-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
