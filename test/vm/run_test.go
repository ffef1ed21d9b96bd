// Package vm_test does on real microVMs what users do.
package vm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/test/vmtest"
)

// A C repository with a Makefile, passing and failing, from a directory below
// its top, with an uncommitted change and an untracked secret.
func TestRunRepository(t *testing.T) {
	repo := filepath.Join(t.TempDir(), "hello")
	files := map[string]string{
		"Makefile":      "test: hello\n\t./hello | grep -q changed\nhello: src/hello.c\n\t$(CC) -o hello src/hello.c\nfail:\n\texit 3\n",
		"src/hello.c":   "#include <stdio.h>\nint main(void) { puts(\"committed\"); }\n",
		"a \"b\"\n'c'":  "odd name\n",
		"src/deleted.c": "gone\n",
		"src/link":      "",
		".gitignore":    "*.o\n",
	}
	for name, text := range files {
		path := filepath.Join(repo, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "src/link" {
			if err := os.Symlink("hello.c", path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first"}} {
		git := exec.Command("git", args...)
		git.Dir = repo
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	vmtest.Write(t, filepath.Join(repo, "src/hello.c"), "#include <stdio.h>\nint main(void) { puts(\"changed\"); }\n")
	vmtest.Write(t, filepath.Join(repo, "secret.env"), "TOKEN=1\n")
	if err := os.Remove(filepath.Join(repo, "src/deleted.c")); err != nil {
		t.Fatal(err)
	}

	r := vmtest.Shared.Run(nil, "vm", "run", "--rm", filepath.Join(repo, "src"), "--", "sh", "-c",
		"set -e; cd /root/hello; make test; ls -1b; ls src; git status --porcelain; test -L src/link; make fail")
	if r.Status != 2 { // make's own status for a failed recipe
		t.Fatalf("status %d, want make's 2\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	out := string(r.Stdout)
	for _, want := range []string{"cc -o hello src/hello.c", `a\ "b"\n'c'`, " M src/hello.c", " D src/deleted.c"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "secret.env") {
		t.Errorf("an untracked file went along:\n%s", out)
	}
	if list := vmtest.Shared.OK(t, "ps", "--json"); strings.Contains(list, `"remove":true`) {
		t.Errorf("a --rm VM is still there: %s", list)
	}
}

func TestExitStatus(t *testing.T) {
	vm := vmtest.Shared.NewVM(t)
	for _, c := range []struct {
		want int
		argv []string
	}{
		{0, []string{"true"}},
		{1, []string{"false"}},
		{42, []string{"sh", "-c", "exit 42"}},
		{255, []string{"sh", "-c", "exit 255"}},
		{126, []string{"/etc/passwd"}},
		{127, []string{"no-such-program"}},
		{137, []string{"sh", "-c", "kill -9 $$"}},
		{143, []string{"sh", "-c", "kill $$"}},
	} {
		if r := vmtest.Shared.Run(nil, append([]string{"vm", "exec", vm, "--"}, c.argv...)...); r.Status != c.want {
			t.Errorf("%q: status %d, want %d: %s", c.argv, r.Status, c.want, r.Stderr)
		}
	}
	if r := vmtest.Shared.Run(nil, "vm", "exec", "no-such-vm", "--", "true"); r.Status != 125 || len(r.Stderr) == 0 {
		t.Errorf("banger's own failure: status %d, want 125: %s", r.Status, r.Stderr)
	}
}

func TestStreams(t *testing.T) {
	vm := vmtest.Shared.NewVM(t)
	t.Run("100 MB in", func(t *testing.T) {
		const size = 100 << 20
		c := vmtest.Shared.Command(t.Context(), "vm", "exec", vm, "--", "wc", "-c")
		c.Stdin = io.LimitReader(zeros{}, size)
		if out, err := c.Output(); err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(size) {
			t.Errorf("wc -c says %q, %v", out, err)
		}
	})
	t.Run("binary both ways", func(t *testing.T) {
		data := make([]byte, 8<<20)
		_, _ = rand.Read(data)
		if r := vmtest.Shared.Run(data, "vm", "exec", vm, "--", "cat"); !bytes.Equal(r.Stdout, data) {
			t.Errorf("cat returned %d bytes, status %d: %s", len(r.Stdout), r.Status, r.Stderr)
		}
	})
	t.Run("stderr apart", func(t *testing.T) {
		r := vmtest.Shared.Run(nil, "vm", "exec", vm, "--", "sh", "-c", "echo out; echo err >&2")
		if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
			t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
		}
	})
	t.Run("as it comes", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := vmtest.Shared.Command(ctx, "vm", "exec", vm, "--", "sh", "-c", "echo first; read x; echo got $x")
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 64)
		n, _ := out.Read(line) // only then do we answer
		_, _ = in.Write([]byte("second\n"))
		rest, _ := io.ReadAll(out)
		if err := c.Wait(); err != nil || string(line[:n]) != "first\n" || string(rest) != "got second\n" {
			t.Errorf("%q then %q, %v", line[:n], rest, err)
		}
	})
	t.Run("ctrl-c", func(t *testing.T) {
		c := vmtest.Shared.Command(t.Context(), "vm", "exec", vm, "--", "sh", "-c", "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done")
		out, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = out.Read(make([]byte, 16))
		_ = c.Process.Signal(syscall.SIGINT)
		rest, _ := io.ReadAll(out)
		_ = c.Wait()
		if c.ProcessState.ExitCode() != 7 || string(rest) != "caught\n" {
			t.Errorf("status %d, output %q", c.ProcessState.ExitCode(), rest)
		}
	})
}

// A full-screen program in a terminal of 100 columns, driven as a person would.
func TestFullScreen(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("no tmux here")
	}
	vm := vmtest.Shared.NewVM(t)
	sock := filepath.Join(t.TempDir(), "tmux")
	tmux := func(args ...string) string {
		c := exec.Command("tmux", append([]string{"-S", sock, "-f", "/dev/null"}, args...)...)
		c.Env = append(vmtest.Shared.Env, "TERM=xterm-256color")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "100", "-y", "30", filepath.Join(vmtest.Shared.Bin, "banger")+" vm exec "+vm+" -- sh")
	defer tmux("kill-server")
	screen := func() string { return tmux("capture-pane", "-p") }
	vmtest.Until(t, "a prompt", 30*time.Second, func() bool { return strings.Contains(screen(), "#") })
	tmux("send-keys", "stty size; tput cols 2>/dev/null; echo $TERM", "Enter")
	vmtest.Until(t, "the size", 30*time.Second, func() bool { return strings.Contains(screen(), " 100") })
	tmux("send-keys", "top", "Enter")
	vmtest.Until(t, "top", 30*time.Second, func() bool {
		// procps doesn't understand the /proc/stat of User-mode Linux: top has no line of loads there.
		return (*vmtest.Hypervisor == "uml" || strings.Contains(screen(), "load average")) && strings.Contains(screen(), "PID USER")
	})
	tmux("resize-window", "-x", "80", "-y", "24")
	tmux("send-keys", "q")
	// top throws away what was typed while it ran: wait until the shell has its turn.
	vmtest.Until(t, "the prompt again", 30*time.Second, func() bool {
		lines := strings.Split(strings.TrimSpace(screen()), "\n")
		return strings.HasPrefix(lines[len(lines)-1], "#")
	})
	tmux("send-keys", "clear; stty size", "Enter")
	vmtest.Until(t, "the new size", 30*time.Second, func() bool { return strings.Contains(screen(), " 80") })
}

func TestGuestIsAMachine(t *testing.T) {
	vm := vmtest.Shared.NewVM(t)
	exec := func(script string) string {
		return strings.TrimSpace(string(vmtest.Shared.Run(nil, "vm", "exec", vm, "--", "sh", "-c", script).Stdout))
	}
	virt, module := "qemu or kvm", "xfs"
	if *vmtest.Hypervisor == "uml" {
		virt, module = "uml", "squashfs" // as xfs is built in
	}
	if got := exec("systemd-detect-virt --vm"); got == "" || !strings.Contains(virt, got) {
		t.Errorf("systemd-detect-virt says %q", got)
	}
	if got := vmtest.Shared.Booted(t, vm); got != "running" {
		t.Errorf("systemctl is-system-running says %q: %s", got, exec("systemctl --failed --no-legend"))
	}
	if got := exec(strings.ReplaceAll("grep -c FS /proc/filesystems; mount -t FS /dev/null /mnt 2>/dev/null; grep -c FS /proc/filesystems", "FS", module)); got != "0\n1" {
		t.Errorf("mounting a file system loaded its module %s as %q, want 0 then 1", module, got)
	}
	if got := exec("hostname; cat /etc/hostname; getent hosts $(hostname) | wc -l"); got != vm+"\n"+vm+"\n1" {
		t.Errorf("host name: %q", got)
	}
	if got := exec("touch /root/x && stat -f -c %T / && df --output=target /var/lib/docker | tail -1"); !strings.HasPrefix(got, "overlayfs") {
		t.Errorf("root is %q", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
