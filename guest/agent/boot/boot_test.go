package boot_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/guest"
)

// TestSystemd boots an image with systemd and looks at the machine as its
// programs see it.
func TestSystemd(t *testing.T) {
	v := start(t, debianImage(t), newDisk(t, 1024))
	if h, err := v.client.Health(bound(t)); err != nil || h.Configured {
		t.Fatalf("health before configure: %+v, %v", h, err)
	}
	t.Logf("spawn to the agent's answer: %v", time.Since(v.spawned))
	began := time.Now()
	ready := v.configure()
	t.Logf("configure: %v", time.Since(began))
	for _, s := range ready.Stages {
		t.Logf("%8.1f ms %6.1f ms  %s", float64(s.AtUS)/1000, float64(s.TookUS)/1000, s.Name)
	}
	if ready.Init != "/sbin/init" || ready.DiskMiB != 1024 {
		t.Errorf("ready: %+v", ready)
	}
	v.waitInit("running")
	t.Logf("spawn to running: %v", time.Since(v.spawned))
	// What a program sees, by the script that looks.
	for script, want := range map[string]string{
		"cat /proc/1/comm":                                                  "systemd",
		"systemd-detect-virt":                                               "qemu",
		"systemctl --failed --no-legend --plain":                            "",
		"hostname; cat /etc/hostname":                                       "sandbox\nsandbox",
		"cat /etc/machine-id":                                               v.id.MachineID,
		"getent hosts sandbox | tr -s ' '":                                  "127.0.1.1 sandbox",
		"cat /etc/resolv.conf":                                              "nameserver 10.0.2.3",
		"cat /sys/class/net/eth0/address":                                   v.id.Net.MAC,
		"cat /sys/class/net/eth0/operstate":                                 "up",
		"awk 'NR==2 {print $1,$3}' /proc/net/route":                         "eth0 0202000A",
		"findmnt -no FSTYPE /":                                              "overlay",
		"findmnt -no FSTYPE /lib/modules/" + v.id.KernelVersion:             "erofs",
		"findmnt -no FSTYPE /var/lib/docker":                                "ext4",
		"stat -c %a / /run/banger /dev/shm":                                 "755\n700\n1777",
		"cat /proc/$(" + pidsOf("@banger-agent") + ")/cgroup":               "0::/banger",
		"cat /proc/$(" + pidsOf("@banger-agent") + ")/oom_score_adj":        "-1000",
		"mkdir -p /tmp/m && modprobe dummy && grep -c ^dummy /proc/modules": "1",
		"mv /usr/share/zoneinfo /usr/share/z 2>/dev/null || mv /usr/share/base-files /usr/share/z && echo renamed": "renamed",
		"test $(df -m --output=size / | tail -1) -gt 900 && echo grown":                                            "grown",
		"systemctl is-active banger-guardian":                                                                      "active",
	} {
		got, err := v.try(script)
		if err != nil || got != want {
			t.Errorf("%s: got %q, want %q (%v)", script, got, want, err)
		}
	}
	again, err := v.client.Configure(bound(t), v.id)
	if d := cmp.Diff(ready, again); d != "" || err != nil {
		t.Errorf("the same identity again: %v %s", err, d)
	}
	other := v.id
	other.ID = "ba9876543210"
	if _, err := v.client.Configure(bound(t), other); guest.CodeOf(err) != guest.CodeConflict {
		t.Errorf("another identity: %v", err)
	}
}

// waitInit waits until the image's init says word of itself.
func (v *vm) waitInit(word string) {
	v.t.Helper()
	v.wait(3*time.Minute, "init to be "+word, func() error {
		h, err := v.client.Health(bound(v.t))
		time.Sleep(200 * time.Millisecond) // the guest needs its CPU for itself
		if err == nil && h.Init != word {
			err = fmt.Errorf("it is %q", h.Init)
		}
		return err
	})
}

// TestEndings ends machines in every way a user may, and looks what the host is
// told, what the console says, and that what was synced is there afterwards.
func TestEndings(t *testing.T) {
	ends := []struct {
		name, image, script string
		notice, console     string
		clean               bool // the disk was unmounted
	}{
		{"systemctl poweroff", "debian", "systemctl poweroff", "poweroff", "Power down", true},
		{"systemctl reboot", "debian", "systemctl reboot", "reboot", "Restarting system", true},
		{"poweroff by request", "debian", "", "poweroff", "Power down", true},
		{"poweroff -f", "debian", "poweroff -f", "", "Power down", false},
		{"halt -f", "debian", "halt -f -f", "", "System halted", false},
		{"panic", "debian", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", "", "sysrq triggered crash", false},
		{"busybox poweroff", "busybox", "poweroff", "poweroff", "Power down", true},
		{"busybox reboot", "busybox", "reboot", "reboot", "Restarting system", true},
		{"busybox by request", "busybox", "", "poweroff", "Power down", true},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			image := map[string]func(*testing.T) string{"debian": debianImage, "busybox": busyboxImage}[e.image]
			disk := newDisk(t, 256)
			v := start(t, image(t), disk)
			v.configure()
			if e.image == "debian" {
				v.waitInit("running")
			}
			notice := make(chan guest.Notice, 1)
			go func() { _ = v.client.Watch(bound(t), func(n guest.Notice) { notice <- n }) }()
			v.sh("mkdir -p /root; echo kept > /root/file; sync")
			script := e.script
			if e.script == "" {
				script = "true"
				if err := v.client.Shutdown(bound(t), "poweroff"); err != nil {
					t.Fatal(err)
				}
			}
			go func() { _, _ = v.try(script) }() // the machine may end before it answers
			v.end(e.console)
			said := ""
			select {
			case n := <-notice:
				said = n.Kind
			default:
			}
			if said != e.notice {
				t.Errorf("the host was told %q, want %q", said, e.notice)
			}
			if e.clean && !clean(t, disk) {
				t.Error("the disk was not unmounted")
			}
			again := start(t, image(t), disk)
			again.configure()
			if got := again.sh("cat /root/file"); got != "kept" {
				t.Errorf("after start the file holds %q", got)
			}
		})
	}
}

// pidsOf is a script that prints the processes whose argv[0] is name.
func pidsOf(name string) string {
	return "grep -l '^" + name + "' /proc/[0-9]*/cmdline | cut -d/ -f3"
}

// clean reports whether the disk's journal is empty.
func clean(t *testing.T, disk string) bool {
	t.Helper()
	out, err := exec.Command("dumpe2fs", "-h", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(out), "needs_recovery")
}

// TestKills kills what keeps the guest reachable.
func TestKills(t *testing.T) {
	v := start(t, debianImage(t), newDisk(t, 256))
	ready := v.configure()
	v.waitInit("running")
	for _, kill := range []string{
		"kill -9 $(" + pidsOf("@banger-agent") + ")",
		"kill -9 $(" + pidsOf("@banger-guardian") + ")",
		"kill -9 $(" + pidsOf("@banger-agent") + ")",
		"kill -9 -1",
		"kill -9 $(" + pidsOf("@banger-agent") + ")",
	} {
		before := v.sh(pidsOf("@banger-"))
		ctx, cancel := context.WithTimeout(bound(t), 20*time.Second)
		_, _ = v.client.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", kill}}, guest.IO{}) // its session may die with it
		cancel()
		v.wait(30*time.Second, "an agent after "+kill, func() error {
			ctx, cancel := context.WithTimeout(bound(t), 2*time.Second)
			defer cancel()
			h, err := v.client.Health(ctx)
			if err == nil && !h.Configured {
				t.Error("the new agent doesn't know that it is configured")
			}
			return err
		})
		t.Logf("%s: %q, then %q", kill, before, v.sh(pidsOf("@banger-")))
		if again := v.configure(); again.Init != ready.Init {
			t.Errorf("configure after %s: %+v", kill, again)
		}
	}
	v.waitInit("running")
	if err := v.client.Shutdown(bound(t), "poweroff"); err != nil {
		t.Fatal(err)
	}
	v.end("Power down")
}

// TestReaper boots an image without an init.
func TestReaper(t *testing.T) {
	v := start(t, busyboxImage(t), newDisk(t, 256))
	if ready := v.configure(); ready.Init != "" {
		t.Errorf("init %q", ready.Init)
	}
	v.waitInit("none")
	for script, want := range map[string]string{
		"hostname":                 "sandbox",
		"cat /etc/resolv.conf":     "nameserver 10.0.2.3",
		"stat -c %a /tmp":          "1777",
		"echo hello > /dev/stdout": "hello",
		"for i in 1 2 3; do true & done; wait; sh -c 'sleep 0 & sleep 0 & exit'; usleep 50000; grep -c ^State:.Z /proc/[0-9]*/status | grep -c :1": "0",
	} {
		got, err := v.try(script + " || true")
		if err != nil || got != want {
			t.Errorf("%s: got %q, want %q (%v)", script, got, want, err)
		}
	}
	ctx, cancel := context.WithTimeout(bound(t), 2*time.Second)
	_, _ = v.client.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", "kill -9 -1"}}, guest.IO{})
	cancel()
	v.wait(10*time.Second, "an agent", func() error {
		ctx, cancel := context.WithTimeout(bound(t), 2*time.Second)
		defer cancel()
		_, err := v.client.Health(ctx)
		return err
	})
	if got := v.sh("hostname"); got != "sandbox" {
		t.Errorf("hostname %q", got)
	}
}
