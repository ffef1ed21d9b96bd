package doctor_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/config"
	"banger/doctor"
	"banger/kvm"
	"banger/xdg"
)

// healthy is a host where everything is as it should be.
func healthy(t *testing.T) *doctor.Host {
	t.Helper()
	dir := t.TempDir()
	d := xdg.Dirs{State: dir + "/state", Data: dir + "/data", Cache: dir + "/cache", Config: dir + "/config", Socket: "/run/user/1000/banger/bangerd.sock"}
	h := &doctor.Host{
		Root: dir, UID: 1000, User: "ann",
		Getenv:   func(string) string { return "" },
		LookPath: func(name string) (string, error) { return "/usr/bin/" + name, nil },
		KVM: func(context.Context) (kvm.Result, error) {
			return kvm.Result{Verdict: kvm.Works, Detail: "runs", TSCKHz: 1}, nil
		},
		QEMU: func(context.Context) (string, string, string, error) {
			return "/usr/bin/qemu-system-x86_64", "7.2", "one at a time", nil
		},
		Firecracker: func(context.Context) (doctor.Firecracker, error) {
			return doctor.Firecracker{Path: "/usr/bin/firecracker", Version: "1.16.1", Tested: "1.16.1"}, nil
		},
		Hypervisor: "firecracker", Why: "it is here", Shim: "/usr/bin/banger-shim",
		UserNamespace: func(context.Context) error { return nil },
		Filesystem: func(path string) (doctor.Filesystem, error) {
			return doctor.Filesystem{Path: path, Type: "ext4", Free: 1 << 40}, nil
		},
		Lock:  func(string) error { return nil },
		Owner: func(string) (int, bool, error) { return 1000, true, nil },
		Dirs:  d, Config: config.Default(d), RAMDir: "/dev/shm", Siblings: map[string]error{},
	}
	write(t, h, "/proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable:   8000000 kB\n")
	write(t, h, "/etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
	write(t, h, "/run/systemd/seats/seat0", "")
	return h
}

func write(t *testing.T, h *doctor.Host, path, text string) {
	t.Helper()
	path = filepath.Join(h.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHealthy(t *testing.T) {
	r := doctor.Examine(t.Context(), healthy(t))
	for _, c := range r.Checks {
		if c.Level == doctor.Warn || c.Level == doctor.Fail {
			t.Errorf("a healthy host has %+v", c)
		}
	}
	if !r.Ready || len(r.Drivers) != 3 {
		t.Errorf("ready %v, drivers %v", r.Ready, r.Drivers)
	}
}

// Every way in which a host falls short is told apart, and said how to mend.
func TestFindings(t *testing.T) {
	verdict := func(v kvm.Verdict, detail, hint string) func(*testing.T, *doctor.Host) {
		return func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (kvm.Result, error) {
				return kvm.Result{Verdict: v, Detail: detail, Hint: hint, TSCKHz: 1}, nil
			}
		}
	}
	file := func(path, text string) func(*testing.T, *doctor.Host) {
		return func(t *testing.T, h *doctor.Host) { write(t, h, path, text) }
	}
	noNamespace := func(path string, value string) func(*testing.T, *doctor.Host) {
		return func(t *testing.T, h *doctor.Host) {
			h.UserNamespace = func(context.Context) error { return errors.New("operation not permitted") }
			if path != "" {
				write(t, h, path, value+"\n")
			}
		}
	}
	without := func(name string) func(*testing.T, *doctor.Host) {
		return func(_ *testing.T, h *doctor.Host) {
			h.LookPath = func(n string) (string, error) {
				if filepath.Base(n) == name {
					return "", exec.ErrNotFound
				}
				return "/usr/bin/" + n, nil
			}
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, *doctor.Host)
		check string
		level doctor.Level
		found string
		mend  string
	}{
		{"no kvm", verdict(kvm.Missing, "there is no /dev/kvm", "load it"), "kvm", doctor.Warn, "there is no", "load it"},
		{"no permission", verdict(kvm.Denied, "no permission", "sudo usermod"), "kvm", doctor.Warn, "no permission", "usermod"},
		{"old login", verdict(kvm.Denied, "this login is older", "log out"), "kvm", doctor.Warn, "older", "log out"},
		{"crawls", verdict(kvm.Crawls, "opens, but", "another host"), "kvm", doctor.Warn, "opens, but", "another"},
		{"broken", verdict(kvm.Broken, "EINVAL", ""), "kvm", doctor.Warn, "EINVAL", ""},
		{"unknown", func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (kvm.Result, error) { return kvm.Result{}, errors.New("no boot id") }
		}, "kvm", doctor.Warn, "could not be judged: no boot id", ""},
		{"tsc", func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (kvm.Result, error) { return kvm.Result{Verdict: kvm.Works}, nil }
		}, "clock", doctor.Warn, "isn't constant", ""},
		{"no qemu", func(_ *testing.T, h *doctor.Host) {
			h.Hypervisor = "qemu"
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
		}, "qemu", doctor.Fail, "no qemu", "sudo apt-get install --no-install-recommends qemu-system-x86"},
		{"no qemu on fedora", func(t *testing.T, h *doctor.Host) {
			h.Hypervisor = "qemu"
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
			write(t, h, "/etc/os-release", "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n")
		}, "qemu", doctor.Fail, "no qemu", "sudo dnf install qemu-system-x86-core"},
		{"no mke2fs", without("mke2fs"), "mke2fs", doctor.Fail, "neither", "e2fsprogs"},
		{"dm-snapshot without root", func(_ *testing.T, h *doctor.Host) { h.Config.DiskDriver = "dm-snapshot" }, "dm-snapshot", doctor.Fail, "isn't root", "disk_driver to file"},
		{"dm-snapshot without device-mapper", func(_ *testing.T, h *doctor.Host) { h.UID, h.Config.DiskDriver = 0, "dm-snapshot" }, "dm-snapshot", doctor.Fail, "/dev/mapper/control", "modprobe dm_snapshot"},
		{"dm-snapshot", func(t *testing.T, h *doctor.Host) {
			h.UID, h.Config.DiskDriver = 0, "dm-snapshot"
			h.Owner = func(string) (int, bool, error) { return 0, true, nil }
			write(t, h, "/dev/mapper/control", "")
		}, "dm-snapshot", doctor.OK, "device-mapper is there", ""},
		{"bridge without root", func(_ *testing.T, h *doctor.Host) { h.Config.Net = "bridge" }, "bridge", doctor.Fail, "isn't root", "net to user"},
		{"no git", without("git"), "git", doctor.Warn, "not in PATH", "git"},
		{"firecracker only", func(_ *testing.T, h *doctor.Host) {
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
		}, "qemu", doctor.Warn, "no qemu", "qemu-system-x86"},
		{"no firecracker", noFirecracker("qemu"), "firecracker", doctor.Note, "no Firecracker", "banger hypervisor install"},
		{"no firecracker though wanted", noFirecracker("firecracker"), "firecracker", doctor.Fail, "no Firecracker", "hypervisor to auto"},
		{"another firecracker", firecrackerIs("1.17.0"), "firecracker", doctor.Note, "tested with 1.16.1", ""},
		{"firecracker with a hole", firecrackerIs("1.16.1", "it leaks"), "firecracker", doctor.Note, "tested with", ""},
		{"no shim", func(_ *testing.T, h *doctor.Host) { h.Siblings["banger-shim"] = errors.New("no shim") }, "programs", doctor.Fail, "no shim", "together"},
		{"config", func(_ *testing.T, h *doctor.Host) {
			h.ConfigErr = banger.Errorf(banger.CodeInvalid, "no setting").WithHint("did you mean x")
		}, "config", doctor.Fail, "no setting", "did you mean x"},
		{"logout kills", file("/etc/systemd/logind.conf.d/50-x.conf", "[Login]\nKillUserProcesses=yes\n"), "logout", doctor.Warn, "KillUserProcesses=yes", "loginctl enable-linger"},
		{"logout kills, a later file doesn't", func(t *testing.T, h *doctor.Host) {
			write(t, h, "/etc/systemd/logind.conf", "KillUserProcesses=yes\n")
			write(t, h, "/usr/lib/systemd/logind.conf.d/90-x.conf", "KillUserProcesses=no\n")
		}, "logout", doctor.OK, "KillUserProcesses=no", ""},
		{"lingers", func(t *testing.T, h *doctor.Host) {
			write(t, h, "/etc/systemd/logind.conf", "KillUserProcesses=yes\n")
			write(t, h, "/var/lib/systemd/linger/ann", "")
		}, "logout", doctor.Warn, "lingers doesn't keep", "systemd-run --user --scope banger daemon restart"},
		{"lingers, logout leaves alone", func(t *testing.T, h *doctor.Host) { write(t, h, "/var/lib/systemd/linger/ann", "") }, "logout", doctor.OK, "lingers", ""},
		{"apparmor", noNamespace("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"), "user namespaces", doctor.Note, "AppArmor", "userns,"},
		{"no clone", noNamespace("/proc/sys/kernel/unprivileged_userns_clone", "0"), "user namespaces", doctor.Note, "unprivileged_userns_clone is 0", "sysctl"},
		{"none allowed", noNamespace("/proc/sys/user/max_user_namespaces", "0"), "user namespaces", doctor.Note, "max_user_namespaces is 0", "sysctl"},
		{"seccomp", noNamespace("", ""), "user namespaces", doctor.Note, "operation not permitted", ""},
		{"little space", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "ext4", Free: 2 << 30}, nil }
		}, "space", doctor.Warn, "2.0 GiB free", "system df"},
		{"no space", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "ext4", Free: 1 << 20}, nil }
		}, "space", doctor.Fail, "0.0 GiB free", "system df"},
		{"nfs", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "nfs", Free: 1 << 40}, nil }
		}, "directories", doctor.Warn, "is on nfs", "state_dir"},
		{"no locks", func(_ *testing.T, h *doctor.Host) { h.Lock = func(string) error { return errors.New("ENOLCK") } }, "directories", doctor.Fail, "ENOLCK", "state_dir"},
		{"another's", func(_ *testing.T, h *doctor.Host) {
			h.Owner = func(string) (int, bool, error) { return 0, false, nil }
		}, "directories", doctor.Fail, "belongs to user 0", "chown"},
		{"read-only", func(_ *testing.T, h *doctor.Host) {
			h.Owner = func(string) (int, bool, error) { return 1000, false, nil }
		}, "directories", doctor.Fail, "can't be written to", "chmod"},
		{"read-only home", func(_ *testing.T, h *doctor.Host) {
			h.Owner = func(path string) (int, bool, error) {
				if path == "/home/ann" {
					return 1000, false, nil
				}
				return 0, false, os.ErrNotExist
			}
			h.Filesystem = func(string) (doctor.Filesystem, error) {
				return doctor.Filesystem{Path: "/home/ann", Type: "ext4", Free: 1 << 40}, nil
			}
		}, "directories", doctor.Fail, "/home/ann can't be written to", "state_dir"},
		{"little memory", file("/proc/meminfo", "MemAvailable: 600000 kB\n"), "memory", doctor.Warn, "585 MiB", "--memory 292M"},
		{"little shm", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(path string) (doctor.Filesystem, error) {
				if path == "/dev/shm" {
					return doctor.Filesystem{Free: 64 << 20}, nil
				}
				return doctor.Filesystem{Type: "ext4", Free: 1 << 40}, nil
			}
		}, "memory", doctor.Warn, "7812 MiB", "free some there"},
		{"sudo", func(_ *testing.T, h *doctor.Host) {
			h.UID = 0
			h.Getenv = func(key string) string { return map[string]string{"SUDO_USER": "ann"}[key] }
			h.Owner = func(string) (int, bool, error) { return 0, true, nil }
		}, "sudo", doctor.Warn, "by sudo of user ann", "without sudo"},
		{"no templates", func(*testing.T, *doctor.Host) {}, "warm start", doctor.Note, "no templates yet", "template create"},
		{"a template", func(t *testing.T, h *doctor.Host) {
			for _, name := range []string{"0123456789ab", ".making-0123456789ab"} {
				if err := os.MkdirAll(filepath.Join(h.Dirs.Cache, "templates", name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}, "warm start", doctor.OK, "templates: 1;", ""},
		{"no warm starts", func(_ *testing.T, h *doctor.Host) { h.Config.WarmStart = false }, "warm start", doctor.Note, "warm_start is false", "warm_start = true"},
		{"docker", file("/.dockerenv", ""), "container", doctor.Note, "Docker", "--device /dev/kvm"},
	} {
		h := healthy(t)
		c.spoil(t, h)
		r := doctor.Examine(t.Context(), h)
		var got doctor.Check
		for _, k := range r.Checks {
			if k.Name == c.check {
				got = k
				break
			}
		}
		if got.Level != c.level || !strings.Contains(got.Found, c.found) || !strings.Contains(got.Mend, c.mend) {
			t.Errorf("%s: %+v, want %s, %q, %q", c.name, got, c.level, c.found, c.mend)
		}
		if r.Ready != (c.level != doctor.Fail) {
			t.Errorf("%s: ready %v", c.name, r.Ready)
		}
	}
}

func TestKernelAndImage(t *testing.T) {
	kernels := []banger.Kernel{{Name: "k", ID: "1", Version: "6.1"}}
	images := []banger.Image{{Name: "i", ID: "2"}}
	for name, c := range map[string]struct {
		check doctor.Check
		level doctor.Level
	}{
		"kernel": {doctor.Kernel("k", kernels), doctor.OK}, "kernel by id": {doctor.Kernel("1", kernels), doctor.OK}, "no kernel": {doctor.Kernel("x", kernels), doctor.Note},
		"image": {doctor.Image("i", images), doctor.OK}, "image by id": {doctor.Image("2", images), doctor.OK}, "no image": {doctor.Image("x", images), doctor.Warn},
	} {
		if c.check.Level != c.level || c.level != doctor.OK && c.check.Mend == "" {
			t.Errorf("%s: %+v", name, c.check)
		}
	}
}

// A report tells nobody's name, and keeps what a developer needs.
func TestRedact(t *testing.T) {
	got := doctor.Redact(`open /home/ann/.local/state/banger/x: vm web-shop of ann on thinkpad
mirror https://ann:geheim@mirror.corp/debian, 10.1.2.3 and 127.0.0.1; token=abc123 "password": "x y"; ann.b@corp.example
roots and annotations stay, thinkpads too`, []string{"thinkpad", "ann", "/home/ann", "root", "web-shop", "", "ab"})
	want := `open ~/.local/state/banger/x: vm NAME of NAME on NAME
mirror https://REDACTED@mirror.corp/debian, ADDRESS and 127.0.0.1; token=REDACTED "password": REDACTED; MAIL
roots and annotations stay, thinkpads too`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSystem(t *testing.T) {
	h := healthy(t)
	write(t, h, "/etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian 12\"\n")
	write(t, h, "/proc/version", "Linux version 6.1.0 (x) #1\n")
	write(t, h, "/proc/cpuinfo", "vendor_id\t: X\nmodel name\t: Ryzen 7\n")
	for _, want := range []string{"system: Debian 12\n", "kernel: 6.1.0", "processor: Ryzen 7\n", "memory: 16000000 kB\n"} {
		if got := doctor.System(h.Root); !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

func noFirecracker(chosen string) func(*testing.T, *doctor.Host) {
	return func(_ *testing.T, h *doctor.Host) {
		h.Hypervisor = chosen
		h.Firecracker = func(context.Context) (doctor.Firecracker, error) {
			return doctor.Firecracker{Tested: "1.16.1"}, errors.New("no Firecracker on this host")
		}
	}
}

func firecrackerIs(version string, holes ...string) func(*testing.T, *doctor.Host) {
	return func(_ *testing.T, h *doctor.Host) {
		h.Firecracker = func(context.Context) (doctor.Firecracker, error) {
			return doctor.Firecracker{Path: "/fc", Version: version, Tested: "1.16.1", Holes: holes}, nil
		}
	}
}
