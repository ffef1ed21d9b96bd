package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger"
)

// login looks at what logind does to a user's processes when the login ends
// (logind.conf(5), loginctl(1)).
func login(_ context.Context, h *Host, r *banger.Report) {
	if _, err := os.Stat(filepath.Join(h.Root, "/run/systemd/seats")); err != nil || h.UID == 0 {
		r.Add(banger.Check{Name: "logout", Level: banger.LevelOK, Found: "this user's processes aren't managed by logind", Means: "VMs run on after a logout"})
		return
	}
	kills := h.killsUserProcesses()
	_, err := os.Stat(filepath.Join(h.Root, "/var/lib/systemd/linger", h.User))
	lingers := err == nil
	switch {
	case kills && !lingers:
		r.Add(check("logout", banger.LevelWarn, "logind has KillUserProcesses=yes, and user "+h.User+" doesn't linger",
			"running VMs are ended when you log out; their disks stay",
			"loginctl enable-linger && systemd-run --user --scope banger daemon restart, then restart the VMs: processes outside of a login stay"))
	case kills: // a session's scope ends with the session, whether its user lingers or not (logind.conf(5))
		r.Add(check("logout", banger.LevelWarn, "logind has KillUserProcesses=yes, which also ends what a login of user "+h.User+" started, though that user lingers",
			"running VMs are ended when you log out, unless the daemon was started outside of a login; their disks stay",
			"systemd-run --user --scope banger daemon restart, then restart the VMs"))
	case lingers:
		r.Add(banger.Check{Name: "logout", Level: banger.LevelOK, Found: "user " + h.User + " lingers", Means: "VMs run on after a logout"})
	default:
		r.Add(banger.Check{Name: "logout", Level: banger.LevelOK, Found: "logind leaves processes alone at logout (KillUserProcesses=no)", Means: "VMs run on after a logout; the next command starts a daemon again"})
	}
}

// killsUserProcesses reads logind's configuration: the main file, then the
// drop-ins of all directories by name. KillOnlyUsers and KillExcludeUsers narrow it.
func (h *Host) killsUserProcesses() bool {
	files := map[string]string{}
	for _, dir := range []string{"/usr/lib", "/run", "/etc"} { // a later one replaces a file of the same name
		found, _ := filepath.Glob(filepath.Join(h.Root, dir, "systemd/logind.conf.d/*.conf"))
		for _, path := range found {
			files[filepath.Base(path)] = strings.TrimPrefix(path, h.Root)
		}
	}
	order := []string{"/etc/systemd/logind.conf"}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		order = append(order, files[name])
	}
	value := map[string]string{"KillUserProcesses": "no", "KillExcludeUsers": "root"}
	for _, path := range order {
		for line := range strings.Lines(h.text(path)) {
			if key, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				value[strings.TrimSpace(key)] = strings.TrimSpace(v)
			}
		}
	}
	only := strings.Fields(value["KillOnlyUsers"])
	return slices.Contains([]string{"yes", "true", "1", "on"}, strings.ToLower(value["KillUserProcesses"])) &&
		!slices.Contains(strings.Fields(value["KillExcludeUsers"]), h.User) && (len(only) == 0 || slices.Contains(only, h.User))
}

// namespaces tries to make a user namespace, and finds out who forbids it.
func namespaces(ctx context.Context, h *Host, r *banger.Report) {
	err := h.UserNamespace(ctx)
	if err == nil {
		r.Add(banger.Check{Name: "user namespaces", Level: banger.LevelOK, Found: "they can be made"})
		return
	}
	c := check("user namespaces", banger.LevelNote, "they can't be made: "+err.Error(), "VMs don't need them on QEMU and the user network; Firecracker without root does", "")
	is := func(path, value string) bool { return strings.TrimSpace(h.text(path)) == value }
	switch {
	case is("/proc/sys/user/max_user_namespaces", "0"):
		c.Found, c.Mend = "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000"
	case is("/proc/sys/kernel/unprivileged_userns_clone", "0"):
		c.Found, c.Mend = "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"):
		c.Found, c.Mend = "AppArmor forbids them (kernel.apparmor_restrict_unprivileged_userns is 1)", profile(h.Shim)
	}
	r.Add(c)
}

// profile is a command that installs an AppArmor profile for the program that makes
// user namespaces (apparmor.d(5); Ubuntu's apparmor-unprivileged-userns-restrictions).
func profile(program string) string {
	return fmt.Sprintf(`sudo tee /etc/apparmor.d/banger-shim >/dev/null <<'END' && sudo apparmor_parser -r /etc/apparmor.d/banger-shim
abi <abi/4.0>,
include <tunables/global>
profile banger-shim %q flags=(unconfined) {
  userns,
}
END`, program)
}

// remote are network file systems, whose locks may be missing or may not work.
var remote = []string{"nfs", "cifs", "smb2", "9p", "afs", "ceph", "fuse"}

// directories looks at who owns the places banger writes to, and tries a lock.
func directories(_ context.Context, h *Host, r *banger.Report) {
	good := true
	add := func(c banger.Check) {
		good = false
		r.Add(c)
	}
	for _, p := range []struct{ name, dir string }{{"state", h.State}, {"data", h.Data}, {"cache", h.Cache}} {
		uid, writable, err := h.Owner(p.dir)
		fs, fserr := h.Filesystem(p.dir)
		switch {
		case err == nil && uid != h.UID:
			add(check("directories", banger.LevelFail, fmt.Sprintf("the %s directory %s belongs to user %d, not to user %d", p.name, p.dir, uid, h.UID),
				"the daemon won't use what another user can change", fmt.Sprintf("sudo chown -R %d %s, or another %s_dir in config.toml", h.UID, p.dir, p.name)))
		case err == nil && !writable:
			add(check("directories", banger.LevelFail, fmt.Sprintf("the %s directory %s can't be written to", p.name, p.dir), "", "chmod u+rwx "+p.dir))
		case err != nil && fserr == nil:
			if _, writable, err := h.Owner(fs.Path); err == nil && !writable {
				add(check("directories", banger.LevelFail, fmt.Sprintf("the %s directory %s can't be made: %s can't be written to", p.name, p.dir, fs.Path), "",
					fmt.Sprintf("make %s writable, or name another %s_dir in config.toml", fs.Path, p.name)))
			}
		}
		if fserr == nil && slices.Contains(remote, fs.Type) {
			add(check("directories", banger.LevelWarn, fmt.Sprintf("the %s directory is on %s", p.name, fs.Type),
				"disks are slow there, and locks may not hold between hosts", fmt.Sprintf("set %s_dir in config.toml to a directory on a disk of this host", p.name)))
		}
	}
	if _, _, err := h.Owner(h.State); err == nil && good {
		if err := h.Lock(h.State); err != nil {
			add(check("directories", banger.LevelFail, fmt.Sprintf("files in %s can't be locked: %v", h.State, err), "two daemons could use the same records",
				"set state_dir in config.toml to a directory on a disk of this host"))
		}
	}
	if good {
		r.Add(banger.Check{Name: "directories", Level: banger.LevelOK, Found: "state, data and cache are this user's: " + strings.Join([]string{h.State, h.Data, h.Cache}, ", ")})
	}
}

// How many bytes an image, a kernel and a little work take.
const (
	enoughSpace = 5 << 30
	leastSpace  = 1 << 30
)

func space(_ context.Context, h *Host, r *banger.Report) {
	worst := banger.Check{Name: "space", Level: banger.LevelOK}
	var found []string
	seen := map[string]bool{}
	for _, dir := range []string{h.State, h.Data, h.Cache} {
		fs, err := h.Filesystem(dir)
		key := fmt.Sprint(fs.Type, fs.Free)
		if err != nil || seen[key] {
			continue
		}
		seen[key] = true
		found = append(found, fmt.Sprintf("%.1f GiB free (%s, for %s)", float64(fs.Free)/(1<<30), fs.Type, dir))
		switch {
		case fs.Free < leastSpace:
			worst.Level, worst.Means, worst.Mend = banger.LevelFail, "an image and a kernel don't fit", "`banger system df` shows what banger has; or name other directories in config.toml"
		case fs.Free < enoughSpace && worst.Level == banger.LevelOK:
			worst.Level, worst.Means, worst.Mend = banger.LevelWarn, "disks grow as they are written to: this may not last", "`banger system df` shows what banger has"
		}
	}
	worst.Found = strings.Join(found, "; ")
	r.Add(worst)
}

// surroundings looks at how this was called.
func surroundings(_ context.Context, h *Host, r *banger.Report) {
	if who := h.Getenv("SUDO_USER"); h.UID == 0 && who != "" && who != "root" {
		r.Add(check("sudo", banger.LevelWarn, "this is root, by sudo of user "+who, "root's VMs and images aren't "+who+"'s; banger doesn't need root", "run banger without sudo"))
	}
	for path, what := range map[string]string{"/.dockerenv": "Docker", "/run/.containerenv": "Podman"} {
		if _, err := os.Stat(filepath.Join(h.Root, path)); err == nil {
			r.Add(check("container", banger.LevelNote, "this host is a container of "+what, "KVM works only if the container has /dev/kvm; all else works without", "start the container with --device /dev/kvm"))
		}
	}
}
