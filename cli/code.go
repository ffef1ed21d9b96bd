package cli

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

func codeCommand(a *App) *cobra.Command {
	return gives(a, &cobra.Command{
		Use:   "code VM [PATH]",
		Short: "Open a VM in VS Code",
		Long: `Runs "code --remote ssh-remote+VM.vm PATH": VS Code on this host, its files and terminals
in the VM. PATH is the VM's workspace unless you say one. A stopped VM is started.

VS Code runs a server of its own in the VM. Before it is opened banger looks whether the
image has what that server needs, and says what is missing. It needs a shell, tar and
glibc of 2.28 or later, or musl with libstdc++; and curl or wget, else VS Code copies its
server from this host. An image without a shell can't have it.

It needs VS Code with the extension "Remote - SSH" on this host, and once
"banger ssh-config --install".`,
		Example: `  banger code web
  banger code web /srv/app`,
		Args:              nargs(1, 2),
		ValidArgsFunction: a.completeVMs(1),
	}, nil, func(ctx context.Context, args []string, _ func(...Ran) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return err
		}
		path := vm.Spec.Workspace
		if len(args) > 1 {
			path = args[1]
		}
		if path != "" && path[0] != '/' {
			return banger.Errorf(banger.CodeInvalid, "%q isn't an absolute path in the VM", path)
		}
		program, err := codeProgram(a, vm.Spec.Name)
		if err != nil {
			return err
		}
		if vm, err = started(ctx, a, vm); err != nil {
			return err
		}
		if err := fitForCode(ctx, a, vm); err != nil {
			return err
		}
		line := []string{"--remote", "ssh-remote+" + vm.Spec.Name + domain}
		if path != "" {
			line = append(line, path)
		}
		cmd := exec.CommandContext(ctx, program, line...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Err, a.Err
		if err := cmd.Run(); err != nil {
			return banger.Errorf(banger.CodeUnavailable, "%s: %w", program, err)
		}
		return nil
	}, ranNothing)
}

// codeProgram finds VS Code, which must find the VM.
func codeProgram(a *App, name string) (string, error) {
	has, err := a.SSH.read()
	if err != nil {
		return "", err
	}
	if _, _, installed := ours(has); !installed {
		return "", banger.Errorf(banger.CodeUnavailable, "VS Code can't find %s: %s doesn't include banger's configuration", name+domain, a.SSH.Config).
			WithHint("`banger ssh-config --install` adds it, and --uninstall takes it out again")
	}
	program, err := exec.LookPath("code")
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "there is no program code on this host").
			WithHint("install VS Code; where it is installed without that program, its command \"Connect to Host...\" opens %s, too", name+domain)
	}
	return program, nil
}

// lookAround tells what VS Code's server needs. An image has what it has, so each part
// works without the others.
const lookAround = `for p in tar gzip curl wget apt-get apk dnf; do command -v $p >/dev/null 2>&1 && echo "has $p"; done
l=$(getconf GNU_LIBC_VERSION 2>/dev/null) && echo "$l"
for f in /lib/ld-musl-*; do [ -e "$f" ] && echo musl; done
for f in /usr/lib/libstdc++.so.6 /usr/lib/*/libstdc++.so.6 /usr/lib64/libstdc++.so.6 /lib/*/libstdc++.so.6; do [ -e "$f" ] && echo "has libstdc++" && break; done
exit 0`

// codeTime bounds how long a guest may take to answer, and maxAround its answer.
const (
	codeTime  = 20 * time.Second
	maxAround = 16 << 10
)

// fitForCode looks whether an image can run VS Code's server.
func fitForCode(ctx context.Context, a *App, vm banger.VM) error {
	ctx, cancel := context.WithTimeout(ctx, codeTime)
	defer cancel()
	spec := guest.ExecSpec{ID: guest.NewID(), Argv: []string{"/bin/sh", "-c", lookAround}}
	if c := vm.Config; c != nil {
		spec.Env, spec.User = slices.Clone(c.Env), c.User
	}
	var out bytes.Buffer
	st, err := a.guest(vm).Exec(ctx, spec, guest.IO{Stdout: &atMost{&out, maxAround}, Stderr: io.Discard})
	switch {
	case err != nil && st == guest.ExitStatus{}:
		return a.execError(ctx, vm, err)
	case st.Error != "":
		return banger.Errorf(banger.CodeUnavailable, "VS Code can't run in vm %s: its image has no shell", vm.Spec.Name).
			WithHint("use an image with one, as debian-12; `banger cp` and `banger exec` work in any")
	}
	lacks, note, add := judgeForCode(out.String())
	if len(lacks) > 0 {
		return banger.Errorf(banger.CodeUnavailable, "VS Code can't run in vm %s: its image lacks %s", vm.Spec.Name, strings.Join(lacks, ", ")).
			WithHint("%s", cmp.Or(add, "use an image that has them"))
	}
	if note != "" {
		a.note("%s", note)
	}
	return nil
}

// judgeForCode says what an image lacks by what lookAround told of it, and how to add that.
func judgeForCode(told string) (lacks []string, note, add string) {
	lines := strings.Split(told, "\n")
	has := func(what string) bool { return slices.Contains(lines, "has "+what) }
	if !has("tar") {
		lacks = append(lacks, "tar")
	}
	if !has("gzip") {
		lacks = append(lacks, "gzip")
	}
	musl := slices.Contains(lines, "musl")
	glibc := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "glibc ") })
	switch {
	case glibc >= 0 && older(strings.TrimPrefix(lines[glibc], "glibc "), 2, 28):
		lacks = append(lacks, "glibc 2.28 (it has "+printable(lines[glibc], 40)+")")
	case glibc < 0 && !musl:
		lacks = append(lacks, "a C library that VS Code knows")
	}
	if !has("libstdc++") {
		lacks = append(lacks, "libstdc++")
	}
	if !has("curl") && !has("wget") {
		note = "the image has neither curl nor wget: VS Code copies its server from this host, which takes longer"
	}
	switch {
	case has("apk"):
		add = "in the VM, as root: apk add libstdc++ tar gzip"
	case has("apt-get"):
		add = "in the VM, as root: apt-get update && apt-get install -y libstdc++6 tar gzip"
	case has("dnf"):
		add = "in the VM, as root: dnf install -y libstdc++ tar gzip"
	}
	return lacks, note, add
}

// older reports whether a version "2.31" is before major.minor; one that can't be read is.
func older(version string, major, minor int) bool {
	a, b, _ := strings.Cut(version, ".")
	x, okX := digits(a)
	y, okY := digits(b)
	return !okX || !okY || x < major || x == major && y < minor
}

// digits reads a number's first digits.
func digits(s string) (n int, ok bool) {
	for _, c := range s {
		if c < '0' || c > '9' || n > 1e6 {
			break
		}
		n, ok = n*10+int(c-'0'), true
	}
	return n, ok
}

// atMost fails after so many bytes.
type atMost struct {
	io.Writer
	left int
}

func (w *atMost) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, banger.Errorf(banger.CodeInvalid, "the guest says more than it was asked")
	}
	return w.Writer.Write(b)
}
