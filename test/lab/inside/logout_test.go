package lab_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/host/cgroup"
	"banger/vmm/shim"
)

// who is the lab's ordinary user.
const who = "user"

// session is a login by PAM, as ssh's or a console's is: logind knows it.
type session struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	id  string
}

func login(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command("runuser", "-l", who, "-c", "exec sh")}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	t.Cleanup(func() { _ = s.in.Close(); _ = s.cmd.Process.Kill() }) // it may have ended
	if s.id = s.do("echo $XDG_SESSION_ID"); s.id == "" {
		t.Fatal("not a session of logind's")
	}
	return s
}

// do runs one command that must succeed, and returns what it printed.
func (s *session) do(command string) string {
	s.t.Helper()
	const end = "-- status "
	if _, err := io.WriteString(s.in, "export PATH=$PATH:"+filepath.Join(os.Getenv("BANGER_LAB"), "bin")+"\n"+command+" </dev/null\necho \""+end+"$?\"\n"); err != nil {
		s.t.Fatal(err)
	}
	var text strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("%s: %v after %q", command, err, text.String())
		}
		if status, done := strings.CutPrefix(line, end); done {
			if status != "0\n" {
				s.t.Fatalf("%s: status %s%s", command, status, text.String())
			}
			return strings.TrimSpace(text.String())
		}
		text.WriteString(line)
	}
}

// logout ends the session and waits until logind has seen to it. A session whose
// processes are left alone is "closing" for as long as one of them runs, and keeps
// the user's runtime directory.
func (s *session) logout() {
	s.t.Helper()
	_ = s.in.Close()
	_ = s.cmd.Wait() // killed, when logind ends what the user has
	until(s.t, "logind to end the session", func() bool {
		out, err := exec.Command("loginctl", "show-session", "--property=State", "--value", s.id).Output()
		return err != nil || strings.TrimSpace(string(out)) == "closing"
	})
}

// runtimeDir reports whether the user has one.
func runtimeDir(t *testing.T) bool {
	t.Helper()
	_, err := os.Stat("/run/user/" + strings.TrimSpace(sh(t, "id -u "+who)))
	return err == nil
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not seen", what)
		}
	}
}

// show asks for the VM, and for its guest's boot when it runs.
func (s *session) show() (vm banger.VM, boot string) {
	s.t.Helper()
	vms, err := results[banger.VM](s.do("banger vm show --json stays"))
	if err != nil || len(vms) != 1 {
		s.t.Fatalf("%d VMs, %v", len(vms), err)
	}
	vm = vms[0]
	if vm.State == banger.Running {
		boot = s.do("banger vm exec stays -- cat /proc/sys/kernel/random/boot_id")
	}
	return vm, boot
}

// bounded looks whether shim and VMM are in a group of their own that has a bound.
func bounded(t *testing.T, vm banger.VM, want bool) {
	t.Helper()
	for _, p := range []banger.Process{vm.Held.Shim, vm.Held.VMM} {
		g, err := cgroup.Of(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Base(g.Dir) == "banger-"+vm.ID+".scope"
		if bound, err := g.Bound(); own != want || own && (err != nil || bound != shim.MemoryBound(vm.Spec.MemoryMiB)) {
			t.Errorf("process %d is in %s, bounded to %d, %v; want a group of its own: %v", p.PID, g.Dir, bound, err, want)
		}
	}
}

// An ordinary user logs out, with and without linger, where logind leaves what a
// session began alone and where it ends it. What ran on is found again; what was
// ended is found stopped, with what its guest had synced. A VM whose memory systemd's
// manager of the user bounds is that manager's, and lives as long as it.
func TestLogout(t *testing.T) {
	inLab(t)
	top := t // sessions last longer than the tests below
	home := "/home/" + who
	data := filepath.Join(home, ".local/share/banger")
	tar := rootTar(t)
	sh(t, "mkdir -p "+data+" "+home+"/.config/banger && printf 'boot_deadline = \"3m\"\nhypervisor = \""+*hypervisor+"\"\n' >"+home+"/.config/banger/config.toml && cp -r "+filepath.Join(os.Getenv("BANGER_LAB"), "cache/banger-test/kernels")+" "+data+" && cp "+tar+" "+home+"/root.tar && chown -R "+who+": "+home)
	s := login(t)
	s.do("banger kernel pull -q")
	s.do("banger image import -q --name small root.tar")
	s.do("banger vm create -q --name stays --image small --memory 256")
	s.do("banger vm exec stays -- sh -c 'echo kept >/root/kept && sync'")
	for _, c := range []struct {
		name          string
		linger, kills bool
		managed       bool // the daemon was started by the user's manager, outside of any login
	}{
		{"leaves alone", false, false, false},
		{"leaves alone, lingering", true, false, false},
		{"ends, lingering", true, true, false},
		{"ends, lingering, started outside of the login", true, true, true},
		{"ends", false, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			sh(t, "mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\nKillUserProcesses="+strconv.FormatBool(c.kills)+"\n' >/etc/systemd/logind.conf.d/lab.conf && systemctl restart systemd-logind")
			sh(t, "loginctl "+map[bool]string{true: "enable-linger ", false: "disable-linger "}[c.linger]+who)
			// The VM and its daemon are to be of this very login: logind ends no other's.
			restart := "banger daemon restart"
			if c.managed {
				restart = "systemd-run --user --scope --quiet " + restart
			}
			s.do(restart)
			s.do("banger vm restart -q stays")
			ends := c.kills && !c.managed && !c.linger
			vm, boot := s.show()
			if vm.State != banger.Running {
				t.Fatalf("it is %s: %s", vm.State, vm.Reason)
			}
			bounded(t, vm, c.linger || c.managed)
			s.logout()
			pid := vm.Held.VMM.PID
			if ends {
				until(t, "logind to end the VM", func() bool { return syscall.Kill(pid, 0) != nil })
				if !c.linger {
					until(t, "the runtime directory to go", func() bool { return !runtimeDir(t) })
				}
			} else if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("the VM ended with the login: %v", err)
			}
			t.Logf("after the logout: runtime directory %v, VMM alive %v", runtimeDir(t), syscall.Kill(pid, 0) == nil)
			s = login(top)
			s.t = t
			until(t, "the VM at rest", func() bool {
				now, _ := s.show()
				return now.State == banger.Running || now.State == banger.Stopped
			})
			now, again := s.show()
			switch {
			case ends && (now.State != banger.Stopped || !now.Held.Empty() || now.Reason == ""):
				t.Errorf("found %s (%s) with %+v", now.State, now.Reason, now.Held)
			case !ends && (again != boot || now.Held.VMM != vm.Held.VMM):
				t.Errorf("found %s (%s), another run: %+v, was %+v", now.State, now.Reason, now.Held, vm.Held)
			}
			if now.State == banger.Stopped {
				s.do("banger vm start -q stays")
			}
			if kept := s.do("banger vm exec stays -- cat /root/kept"); kept != "kept" {
				t.Errorf("a synced file reads %q", kept)
			}
		})
	}
	s.t = t
	s.do("banger vm delete stays")
	s.do("banger daemon stop")
	s.logout()
}

// results reads what a command with --json printed.
func results[T any](text string) ([]T, error) {
	var doc struct{ Results []T }
	err := json.Unmarshal([]byte(text), &doc)
	return doc.Results, err
}
