package renew

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// Where the cgroups are, and the one for processes that were in none.
const (
	cgroupRoot = "/sys/fs/cgroup"
	restCgroup = cgroupRoot + "/banger.rest"
)

// Bounds of the steps that wait for others.
const (
	stopWait  = 30 * time.Second // for services to stop
	keyWait   = time.Minute      // for one host key
	standWait = 10 * time.Second // for all processes to stop
)

// Held is a running guest whose processes are stopped, all but the agent's. The parts of
// its identity on the disk are removed; Identify makes new ones.
type Held struct {
	groups []string // the cgroups that are frozen
	keys   []string // types of SSH host keys that were there: "rsa", "ed25519"
	ssh    []string // units that serve them, stopped
}

// Hold stops a running guest, so that an image template can be made of it. It removes the
// SSH host keys, and stops the service that has read them. Then the cgroup freezer stops
// every process but ours, each at a point where it holds no lock in the kernel (the
// kernel's Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze). ours is the agent's
// cgroup, and isOurs recognises our processes. hungUp is as for Freeze. On error the guest
// runs on.
func Hold(hungUp func() (bool, error), ours string, isOurs func(pid int) bool) (*Held, error) {
	h := &Held{}
	if _, err := os.Stat(owedKeys); err == nil {
		return nil, errors.New("an earlier agent held this guest and died: what must be made anew isn't known any more")
	}
	if err := h.dropKeys(); err != nil {
		return nil, errors.Join(err, h.serveSSH())
	}
	if err := h.stop(ours, isOurs); err != nil {
		return nil, errors.Join(err, h.Release())
	}
	unix.Sync() // so that the disk can be booted without the memory, too
	go sayFrozen(hungUp)
	return h, nil
}

// dropKeys removes the host keys, and stops the services that may have read them.
func (h *Held) dropKeys() error {
	keys, err := filepath.Glob("/etc/ssh/ssh_host_*_key")
	if err != nil || len(keys) == 0 {
		return err
	}
	for _, unit := range []string{"ssh.socket", "sshd.socket", "ssh.service", "sshd.service"} {
		if exec.Command("systemctl", "--quiet", "is-active", unit).Run() == nil {
			h.ssh = append(h.ssh, unit)
		}
	}
	if len(h.ssh) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "systemctl", append([]string{"stop"}, h.ssh...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("stop %v: %w: %.200q", h.ssh, err, out)
		}
	}
	for _, path := range keys {
		h.keys = append(h.keys, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "ssh_host_"), "_key"))
	}
	if err := os.WriteFile(owedKeys, []byte(strings.Join(h.keys, "\n")), 0o600); err != nil {
		return err
	}
	for _, path := range keys {
		if err := os.Remove(path); err != nil {
			return err
		}
		if err := os.Remove(path + ".pub"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// stop freezes every cgroup at the root but ours. Processes in none, as with an init that
// doesn't use cgroups, are moved into one first.
func (h *Held) stop(ours string, isOurs func(pid int) bool) error {
	if err := os.Mkdir(restCgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, pid := range members(cgroupRoot) {
		// Kernel threads, which have no program, could be moved, but never stop.
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || isOurs(pid) {
			continue
		}
		err := os.WriteFile(restCgroup+"/cgroup.procs", fmt.Append(nil, pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) { // it died
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	groups, err := filepath.Glob(cgroupRoot + "/*/cgroup.freeze")
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g = filepath.Dir(g); g == ours {
			continue
		}
		if text, _ := os.ReadFile(g + "/cgroup.freeze"); strings.TrimSpace(string(text)) == "1" {
			return fmt.Errorf("%s is frozen already, by an agent that died or by somebody else", g)
		}
		h.groups = append(h.groups, g)
		if err := os.WriteFile(g+"/cgroup.freeze", []byte("1"), 0); err != nil {
			return err
		}
	}
	stands := func(g string) bool {
		events, err := os.ReadFile(g + "/cgroup.events")
		return err == nil && strings.Contains(string(events), "frozen 1")
	}
	for end := time.Now().Add(standWait); ; time.Sleep(2 * time.Millisecond) {
		i := slices.IndexFunc(h.groups, func(g string) bool { return !stands(g) })
		if i < 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the processes of %s don't stop", filepath.Base(h.groups[i]))
		}
	}
}

// members returns the processes of one cgroup.
func members(group string) (pids []int) {
	text, _ := os.ReadFile(group + "/cgroup.procs")
	for word := range strings.FieldsSeq(string(text)) {
		var pid int
		if n, _ := fmt.Sscan(word, &pid); n == 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Identify returns the steps between the writing of the files that name the machine and
// Release: new host keys of the types there were, and a new boot id. The kernel's own boot
// id can't be set, so a file is mounted in its place.
func (h *Held) Identify() []Step {
	return []Step{
		{guest.RenewHostKeys, func(guest.Identity) error { return h.newKeys() }},
		{guest.RenewBootID, func(guest.Identity) error { return newBootID() }},
	}
}

// owedKeys is a file with the types of host keys that were removed and not yet made anew.
// It is needed when the disk of a held guest is booted without the memory.
const owedKeys = "/etc/ssh/.banger-owed-keys"

// OwedKeys makes the host keys that owedKeys lists.
func OwedKeys() error {
	kinds, err := os.ReadFile(owedKeys)
	if err != nil {
		return nil // nearly always: there is none
	}
	return (&Held{keys: strings.Fields(string(kinds))}).newKeys()
}

func (h *Held) newKeys() error {
	for _, kind := range h.keys {
		path := "/etc/ssh/ssh_host_" + kind + "_key"
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // perhaps left by a try that was cut short
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), keyWait)
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", path).CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("make %s: %w: %.200q", path, err, out)
		}
	}
	if len(h.keys) == 0 {
		return nil
	}
	unix.Sync() // the keys must be on disk before owedKeys is removed
	return os.Remove(owedKeys)
}

// bootIDFile is mounted over the kernel's boot id. Only root can change it.
const bootIDFile = "/run/banger/boot_id"

func newBootID() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	if err := os.WriteFile(bootIDFile, id, 0o444); err != nil {
		return err
	}
	err = unix.Mount(bootIDFile, bootIDPath, "", unix.MS_BIND, "")
	if err == nil { // setting the flags of a bind mount takes a second call, mount(2)
		err = unix.Mount("", bootIDPath, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err != nil {
		return fmt.Errorf("put a boot id in place: %w", err)
	}
	return reads(bootIDPath, strings.TrimSpace(string(id)))
}

// Release lets the processes go on.
func (h *Held) Release() error {
	var errs []error
	for _, g := range h.groups {
		// A cgroup that was removed had no processes.
		if err := os.WriteFile(g+"/cgroup.freeze", []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, h.serveSSH())...)
}

// serveSSH starts the services that dropKeys stopped. It doesn't wait until they run.
func (h *Held) serveSSH() error {
	if len(h.ssh) == 0 {
		return nil
	}
	return exec.Command("systemctl", append([]string{"start", "--no-block"}, h.ssh...)...).Start()
}
