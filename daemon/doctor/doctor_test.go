package doctor_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/daemon/doctor"
	"banger/vmm/kvm"
)

// healthy is a host where everything is as it should be.
func healthy(t *testing.T) *doctor.Host {
	t.Helper()
	dir := t.TempDir()
	h := &doctor.Host{
		Root: dir, UID: 1000, User: "ann",
		Getenv:   func(string) string { return "" },
		LookPath: func(name string) (string, error) { return "/usr/bin/" + name, nil },
		KVM: func(context.Context) (doctor.KVM, error) {
			return doctor.KVM{Verdict: doctor.KVMWorks, Found: "runs", SteadyClock: true}, nil
		},
		QEMU: func(context.Context) (string, string, string, error) {
			return "/usr/bin/qemu-system-x86_64", "7.2", "one at a time", nil
		},
		Firecracker: func(context.Context) (doctor.Firecracker, error) {
			return doctor.Firecracker{Path: "/usr/bin/firecracker", Version: "1.16.1", Tested: "1.16.1"}, nil
		},
		Git:       func(context.Context) (doctor.Git, error) { return doctor.Git{Version: "2.39.5"}, nil },
		Isolation: banger.ByHardware, Hypervisor: "firecracker", Why: "it is here", ProcessKernel: "debian-13-uml", Maps: 65530, Carries: 1024,
		Jail: func(context.Context) (doctor.Jail, error) {
			return doctor.Jail{Stands: true, Found: "all are closed", Landlock: 7}, nil
		},
		Shim:          "/usr/bin/banger-shim",
		UserNamespace: func(context.Context) error { return nil },
		Filesystem: func(path string) (doctor.Filesystem, error) {
			return doctor.Filesystem{Path: path, Type: "ext4", Free: 1 << 40}, nil
		},
		Lock:      func(string) error { return nil },
		Bound:     func() (string, error) { return "scopes of systemd's", nil },
		Owner:     func(string) (int, bool, error) { return 1000, true, nil },
		Templates: func() int { return 0 }, Obstacles: func() ([]string, error) { return nil, nil },
		Kernel: func() (doctor.Kernel, error) {
			return doctor.Kernel{Name: "debian-12-cloud", Version: "6.1.0-9", Looked: time.Now().AddDate(0, 0, -3)}, nil
		},
		State: dir + "/state", Data: dir + "/data", Cache: dir + "/cache",
		Settings: doctor.Settings{Path: dir + "/config/config.toml", DiskDriver: "file", Net: "user", MemoryMiB: 1024, WarmStart: true},
		RAMDir:   "/dev/shm", Siblings: map[string]error{},
	}
	write(t, h, "/proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable:   8000000 kB\n")
	write(t, h, "/etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
	write(t, h, "/run/systemd/seats/seat0", "")
	return h
}

func kernelIs(k doctor.Kernel) func(*testing.T, *doctor.Host) {
	return func(_ *testing.T, h *doctor.Host) {
		h.Kernel = func() (doctor.Kernel, error) { return k, nil }
	}
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
		if c.Level == banger.LevelWarn || c.Level == banger.LevelFail {
			t.Errorf("a healthy host has %+v", c)
		}
	}
	if !r.Ready || len(r.Drivers) != 4 {
		t.Errorf("ready %v, drivers %v", r.Ready, r.Drivers)
	}
}

// Every way in which a host falls short is told apart, and said how to mend.
func TestFindings(t *testing.T) {
	verdict := func(v doctor.Verdict, detail, hint string) func(*testing.T, *doctor.Host) {
		return func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (doctor.KVM, error) {
				return doctor.KVM{Verdict: v, Found: detail, Mend: hint, SteadyClock: true}, nil
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
		level banger.Level
		found string
		mend  string
	}{
		{"no kvm", verdict(doctor.KVMMissing, "there is no /dev/kvm", "load it"), "kvm", banger.LevelWarn, "there is no", "load it"},
		{"no permission", verdict(doctor.KVMDenied, "no permission", "sudo usermod"), "kvm", banger.LevelWarn, "no permission", "usermod"},
		{"old login", verdict(doctor.KVMDenied, "this login is older", "log out"), "kvm", banger.LevelWarn, "older", "log out"},
		{"crawls", verdict(doctor.KVMCrawls, "opens, but", "another host"), "kvm", banger.LevelWarn, "opens, but", "another"},
		{"broken", verdict(doctor.KVMBroken, "EINVAL", ""), "kvm", banger.LevelWarn, "EINVAL", ""},
		{"unknown", func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (doctor.KVM, error) { return doctor.KVM{}, errors.New("no boot id") }
		}, "kvm", banger.LevelWarn, "could not be judged: no boot id", ""},
		{"tsc", func(_ *testing.T, h *doctor.Host) {
			h.KVM = func(context.Context) (doctor.KVM, error) { return doctor.KVM{Verdict: doctor.KVMWorks}, nil }
		}, "clock", banger.LevelWarn, "isn't constant", ""},
		{"no qemu", func(_ *testing.T, h *doctor.Host) {
			h.Hypervisor = "qemu"
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
		}, "qemu", banger.LevelNote, "no qemu", "or sudo apt-get install --no-install-recommends qemu-system-x86"},
		{"no qemu on fedora", func(t *testing.T, h *doctor.Host) {
			h.Hypervisor = "qemu"
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
			write(t, h, "/etc/os-release", "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n")
		}, "qemu", banger.LevelNote, "no qemu", "or sudo dnf install qemu-system-x86-core"},
		{"no bound on memory", func(t *testing.T, h *doctor.Host) {
			h.Bound = func() (string, error) { return "", errors.New("the group of a login isn't ours") }
			write(t, h, "/run/systemd/system/x", "")
		}, "memory bound", banger.LevelNote, "isn't ours", "loginctl enable-linger ann"},
		{"no bound on memory, no systemd", func(_ *testing.T, h *doctor.Host) {
			h.Bound = func() (string, error) { return "", errors.New("read-only") }
		}, "memory bound", banger.LevelNote, "read-only", ""},
		{"dm-snapshot without root", func(_ *testing.T, h *doctor.Host) { h.Settings.DiskDriver = "dm-snapshot" }, "dm-snapshot", banger.LevelFail, "isn't root", "disk_driver to file"},
		{"dm-snapshot without device-mapper", func(_ *testing.T, h *doctor.Host) { h.UID, h.Settings.DiskDriver = 0, "dm-snapshot" }, "dm-snapshot", banger.LevelFail, "/dev/mapper/control", "modprobe dm_snapshot"},
		{"dm-snapshot", func(t *testing.T, h *doctor.Host) {
			h.UID, h.Settings.DiskDriver = 0, "dm-snapshot"
			h.Owner = func(string) (int, bool, error) { return 0, true, nil }
			write(t, h, "/dev/mapper/control", "")
		}, "dm-snapshot", banger.LevelOK, "device-mapper is there", ""},
		{"bridge without root", func(_ *testing.T, h *doctor.Host) { h.Settings.Net = "bridge" }, "bridge", banger.LevelFail, "isn't root", "net to user"},
		{"a firewall that drops", func(_ *testing.T, h *doctor.Host) {
			h.Obstacles = func() ([]string, error) { return []string{"chain FORWARD of table ip filter"}, nil }
		}, "forwarding", banger.LevelWarn, "chain FORWARD of table ip filter drops", "iptables -I FORWARD -i banger0 -j ACCEPT"},
		{"a firewall that can't be read", func(_ *testing.T, h *doctor.Host) {
			h.Obstacles = func() ([]string, error) { return nil, errors.New("EPERM") }
		}, "forwarding", banger.LevelWarn, "can't be read: EPERM", ""},
		{"no git", without("git"), "git", banger.LevelWarn, "not in PATH", "git"},
		{"git that doesn't run", func(_ *testing.T, h *doctor.Host) {
			h.Git = func(context.Context) (doctor.Git, error) { return doctor.Git{}, errors.New("exec format error") }
		}, "git", banger.LevelWarn, "exec format", "git"},
		{"an old git", func(_ *testing.T, h *doctor.Host) {
			h.Git = func(context.Context) (doctor.Git, error) {
				return doctor.Git{Version: "2.30.2", Oldest: "2.35.2", Old: true}, nil
			}
		}, "git", banger.LevelWarn, "2.30.2", "apt-get install"},
		{"a kernel", func(*testing.T, *doctor.Host) {}, "kernel", banger.LevelOK, "6.1.0-9; updates were looked for 3 days ago", ""},
		{"no kernel", func(_ *testing.T, h *doctor.Host) {
			h.Kernel = func() (doctor.Kernel, error) { return doctor.Kernel{Name: "debian-12-cloud"}, nil }
		}, "kernel", banger.LevelNote, "no kernel debian-12-cloud yet", ""},
		{"an old kernel", kernelIs(doctor.Kernel{Version: "6.1.0-9", Newest: "linux-image-6.1.0-10 6.1.2", Behind: true, Looked: time.Now().AddDate(0, 0, -2)}),
			"kernel", banger.LevelWarn, "linux-image-6.1.0-10 6.1.2 came out at least 2 days ago", "kernel pull --update"},
		{"a kernel nobody looked after", kernelIs(doctor.Kernel{Version: "6.1.0-9", Looked: time.Now().AddDate(0, 0, -20)}),
			"kernel", banger.LevelWarn, "20 days ago", "kernel pull --update"},
		{"a kernel that is older than the release's", kernelIs(doctor.Kernel{Version: "6.12.73", Current: "6.12.113", Older: true, Looked: time.Now()}),
			"kernel", banger.LevelNote, "6.12.73; updates were looked for today; Debian's own kernel is 6.12.113", ""},
		{"a kernel as new as the release's", kernelIs(doctor.Kernel{Version: "6.12.113", Current: "6.12.113", Looked: time.Now()}),
			"kernel", banger.LevelOK, "Debian's own kernel is 6.12.113", ""},
		{"a kernel with a damaged note", func(_ *testing.T, h *doctor.Host) {
			h.Kernel = func() (doctor.Kernel, error) { return doctor.Kernel{}, errors.New("it can't be read") }
		}, "kernel", banger.LevelWarn, "can't be read", "kernel pull --update"},
		{"firecracker only", func(_ *testing.T, h *doctor.Host) {
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
		}, "qemu", banger.LevelNote, "no qemu", "banger hypervisor install qemu"},
		{"a jail", func(*testing.T, *doctor.Host) {}, "jail", banger.LevelOK, "all are closed", ""},
		{"a jail without Landlock", jailIs(banger.ByProcess, doctor.Jail{Stands: true, Found: "closed"}, nil), "jail", banger.LevelOK, "closed", ""},
		{"no jail beside KVM", jailIs(banger.ByHardware, doctor.Jail{Found: "EPERM", Mend: "see sysctl"}, nil), "jail", banger.LevelNote, "EPERM", "sysctl"},
		{"no jail and no KVM", jailIs(banger.ByEmulation, doctor.Jail{Found: "EPERM", Mend: "see sysctl"}, nil), "jail", banger.LevelWarn, "EPERM", "sysctl"},
		{"a jail of which nothing is known", jailIs(banger.ByEmulation, doctor.Jail{}, errors.New("no banger-jail")), "jail", banger.LevelWarn, "no banger-jail", ""},
		{"few mappings", jailIs(banger.ByProcess, doctor.Jail{Stands: true}, nil), "mappings", banger.LevelWarn, "is 65530", "vm.max_map_count=1048576"},
		{"processes only", func(_ *testing.T, h *doctor.Host) {
			h.Isolation, h.Hypervisor = banger.ByProcess, "uml"
			h.QEMU = func(context.Context) (string, string, string, error) { return "", "", "", errors.New("no qemu") }
		}, "qemu", banger.LevelNote, "no qemu", "qemu-system-x86"},
		{"no firecracker", noFirecracker("qemu"), "firecracker", banger.LevelNote, "no Firecracker", "banger hypervisor install"},
		{"no firecracker though wanted", noFirecracker("firecracker"), "firecracker", banger.LevelFail, "no Firecracker", "hypervisor to auto"},
		{"another firecracker", firecrackerIs("1.17.0"), "firecracker", banger.LevelNote, "tested with 1.16.1", ""},
		{"firecracker with a hole", firecrackerIs("1.16.1", "it leaks"), "firecracker", banger.LevelNote, "tested with", ""},
		{"no shim", func(_ *testing.T, h *doctor.Host) { h.Siblings["banger-shim"] = errors.New("no shim") }, "programs", banger.LevelFail, "no shim", "one directory"},
		{"config", func(_ *testing.T, h *doctor.Host) {
			h.Settings.Err = banger.Errorf(banger.CodeInvalid, "no setting").WithHint("did you mean x")
		}, "config", banger.LevelFail, "no setting", "did you mean x"},
		{"logout kills", file("/etc/systemd/logind.conf.d/50-x.conf", "[Login]\nKillUserProcesses=yes\n"), "logout", banger.LevelWarn, "KillUserProcesses=yes", "loginctl enable-linger"},
		{"logout kills, a later file doesn't", func(t *testing.T, h *doctor.Host) {
			write(t, h, "/etc/systemd/logind.conf", "KillUserProcesses=yes\n")
			write(t, h, "/usr/lib/systemd/logind.conf.d/90-x.conf", "KillUserProcesses=no\n")
		}, "logout", banger.LevelOK, "KillUserProcesses=no", ""},
		{"lingers", func(t *testing.T, h *doctor.Host) {
			write(t, h, "/etc/systemd/logind.conf", "KillUserProcesses=yes\n")
			write(t, h, "/var/lib/systemd/linger/ann", "")
		}, "logout", banger.LevelWarn, "though that user lingers", "systemd-run --user --scope banger daemon restart"},
		{"lingers, logout leaves alone", func(t *testing.T, h *doctor.Host) { write(t, h, "/var/lib/systemd/linger/ann", "") }, "logout", banger.LevelOK, "lingers", ""},
		{"apparmor", noNamespace("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"), "user namespaces", banger.LevelNote, "AppArmor", "userns,"},
		{"no clone", noNamespace("/proc/sys/kernel/unprivileged_userns_clone", "0"), "user namespaces", banger.LevelNote, "unprivileged_userns_clone is 0", "sysctl"},
		{"none allowed", noNamespace("/proc/sys/user/max_user_namespaces", "0"), "user namespaces", banger.LevelNote, "max_user_namespaces is 0", "sysctl"},
		{"seccomp", noNamespace("", ""), "user namespaces", banger.LevelNote, "operation not permitted", ""},
		{"little space", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "ext4", Free: 2 << 30}, nil }
		}, "space", banger.LevelWarn, "2.0 GiB free", "system df"},
		{"no space", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "ext4", Free: 1 << 20}, nil }
		}, "space", banger.LevelFail, "0.0 GiB free", "system df"},
		{"nfs", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(string) (doctor.Filesystem, error) { return doctor.Filesystem{Type: "nfs", Free: 1 << 40}, nil }
		}, "directories", banger.LevelWarn, "is on nfs", "state_dir"},
		{"no locks", func(_ *testing.T, h *doctor.Host) { h.Lock = func(string) error { return errors.New("ENOLCK") } }, "directories", banger.LevelFail, "ENOLCK", "state_dir"},
		{"another's", func(_ *testing.T, h *doctor.Host) {
			h.Owner = func(string) (int, bool, error) { return 0, false, nil }
		}, "directories", banger.LevelFail, "belongs to user 0", "chown"},
		{"read-only", func(_ *testing.T, h *doctor.Host) {
			h.Owner = func(string) (int, bool, error) { return 1000, false, nil }
		}, "directories", banger.LevelFail, "can't be written to", "chmod"},
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
		}, "directories", banger.LevelFail, "/home/ann can't be written to", "state_dir"},
		{"little memory", file("/proc/meminfo", "MemAvailable: 600000 kB\n"), "memory", banger.LevelWarn, "585 MiB", "--memory 292M"},
		{"little shm", func(_ *testing.T, h *doctor.Host) {
			h.Filesystem = func(path string) (doctor.Filesystem, error) {
				if path == "/dev/shm" {
					return doctor.Filesystem{Free: 64 << 20}, nil
				}
				return doctor.Filesystem{Type: "ext4", Free: 1 << 40}, nil
			}
		}, "memory", banger.LevelWarn, "7812 MiB", "free some there"},
		{"sudo", func(_ *testing.T, h *doctor.Host) {
			h.UID = 0
			h.Getenv = func(key string) string { return map[string]string{"SUDO_USER": "ann"}[key] }
			h.Owner = func(string) (int, bool, error) { return 0, true, nil }
		}, "sudo", banger.LevelWarn, "by sudo of user ann", "without sudo"},
		{"no templates", func(*testing.T, *doctor.Host) {}, "warm start", banger.LevelNote, "no templates yet", "template create"},
		{"no templates, and nothing to restore", func(_ *testing.T, h *doctor.Host) { h.Isolation = banger.ByProcess }, "warm start", banger.LevelOK, "need no templates", ""},
		{"templates", func(_ *testing.T, h *doctor.Host) { h.Templates = func() int { return 2 } }, "warm start", banger.LevelOK, "templates: 2;", ""},
		{"no warm starts", func(_ *testing.T, h *doctor.Host) { h.Settings.WarmStart = false }, "warm start", banger.LevelNote, "warm_start is false", "warm_start = true"},
		{"no sandbox wanted", func(_ *testing.T, h *doctor.Host) { h.Settings.Insecure = true }, "sandbox", banger.LevelWarn, "insecure_vmm is true", "insecure_vmm = false"},
		{"certificates", func(_ *testing.T, h *doctor.Host) { h.Settings.Handed = errors.New("guest_ca has none") }, "certificates", banger.LevelFail, "guest_ca has none", "guest_ca"},
		{"a proxy here", func(_ *testing.T, h *doctor.Host) {
			h.Settings.Proxy = []string{"no_proxy=x", "http_proxy=http://127.0.0.1:3128"}
		}, "proxy", banger.LevelWarn, "127.0.0.1:3128", "another machine"},
		{"docker", file("/.dockerenv", ""), "container", banger.LevelNote, "Docker", "--device /dev/kvm"},
	} {
		h := healthy(t)
		c.spoil(t, h)
		r := doctor.Examine(t.Context(), h)
		var got banger.Check
		for _, k := range r.Checks {
			if k.Name == c.check {
				got = k
				break
			}
		}
		if got.Level != c.level || !strings.Contains(got.Found, c.found) || !strings.Contains(got.Mend, c.mend) {
			t.Errorf("%s: %+v, want %s, %q, %q", c.name, got, c.level, c.found, c.mend)
		}
		if r.Ready != (c.level != banger.LevelFail) {
			t.Errorf("%s: ready %v", c.name, r.Ready)
		}
	}
}

// The verdicts on KVM are those of the package that judges it.
func TestVerdicts(t *testing.T) {
	for _, v := range []struct {
		of kvm.Verdict
		is doctor.Verdict
	}{
		{kvm.Works, doctor.KVMWorks}, {kvm.Missing, doctor.KVMMissing}, {kvm.Denied, doctor.KVMDenied},
		{kvm.Broken, doctor.KVMBroken}, {kvm.Crawls, doctor.KVMCrawls},
	} {
		if string(v.of) != string(v.is) {
			t.Errorf("KVM's %q is %q here", v.of, v.is)
		}
	}
}

func TestSystem(t *testing.T) {
	h := healthy(t)
	write(t, h, "/etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian 12\"\n")
	write(t, h, "/proc/version", "Linux version 6.1.0 (x) #1\n")
	write(t, h, "/proc/cpuinfo", "vendor_id\t: X\nmodel name\t: Ryzen 7\n")
	got := doctor.Examine(t.Context(), h).System
	for _, want := range []string{"system: Debian 12\n", "kernel: 6.1.0", "processor: Ryzen 7\n", "memory: 16000000 kB\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

func jailIs(by banger.Isolation, j doctor.Jail, err error) func(*testing.T, *doctor.Host) {
	return func(_ *testing.T, h *doctor.Host) {
		h.Isolation = by
		h.Jail = func(context.Context) (doctor.Jail, error) { return j, err }
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
