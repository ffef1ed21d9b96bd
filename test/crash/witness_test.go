package crash_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/test/vmtest"
)

// witness has the guest's kernel note, from the freeze on, who asks for random
// numbers and who has the generator reseeded (the kernel's
// Documentation/trace/kprobetrace.rst). The streams themselves don't tell: Debian's
// kernel reseeds its generator by itself in a restored guest, whose seed is older
// than half its uptime, from the processor's counter and its random numbers
// (crng_make_state in drivers/char/random.c). That is luck, not what we promise.
var witness = []edit{
	{"guest/agent/renew/renew.go", "// Run does the steps", `var watched bool // this very agent's guest was frozen

func witness() error {
	watched = true
	const tracing = "/sys/kernel/tracing/"
	_ = unix.Mount("tracing", tracing, "tracefs", 0, "") // it may be there
	events := "p:ioctl random_ioctl cmd=%si:x32\np:reseed crng_reseed\np:user get_random_bytes_user\np:uuid proc_do_uuid\n"
	return errors.Join(os.WriteFile(tracing+"kprobe_events", []byte(events), 0), os.WriteFile(tracing+"events/kprobes/enable", []byte("1"), 0))
}

// Run does the steps`},
	{"guest/agent/renew/freeze.go", "	go sayFrozen(hungUp)", "	if err := witness(); err != nil {\n\t\treturn err\n\t}\n	go sayFrozen(hungUp)"},
	{"guest/agent/renew/hold.go", "	go sayFrozen(hungUp)", "	if err := witness(); err != nil {\n\t\treturn nil, err\n\t}\n	go sayFrozen(hungUp)"},
}

// traced is one of the witness's lines: whose, what, and what it was given.
var traced = regexp.MustCompile(`(?m)^ *(.+)-\d+ +\[\d+\].*?: (\w+): \(.*?\)(?: cmd=0x([0-9a-f]+))?$`)

// ioctl requests of random(4).
const addEntropy, reseed = "40085203", "5207"

// reseeded says what is wrong with how a restored guest came to its random
// numbers: the host's seed must have been taken in before anybody asked for one.
func reseeded(t *testing.T, h *vmtest.Host, name string) (complaint string) {
	t.Helper()
	text := h.OK(t, "vm", "exec", name, "--", "cat", "/sys/kernel/tracing/trace")
	var done []string
	for _, m := range traced.FindAllStringSubmatch(text, -1) {
		who, what, request := m[1], m[2], m[3]
		switch {
		case what == "ioctl" && (request == addEntropy || request == reseed):
			done = append(done, request)
		case what == "reseed" && slices.Equal(done, []string{addEntropy, reseed}):
			return ""
		case what == "user" || what == "uuid":
			return fmt.Sprintf("%s got random numbers before the generator was reseeded (only %v was done)", who, done)
		}
	}
	return fmt.Sprintf("nobody had the generator reseeded: %q", text)
}

// identities are the files by which programs know which machine they are on.
const identities = "/proc/sys/kernel/hostname /etc/hostname /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id"

// firstTar is an image whose init, before all else, notes which machine it is on.
func firstTar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tar := filepath.Join(dir, "small.tar")
	if err := vmtest.SmallTar(tar); err != nil {
		t.Fatal(err)
	}
	vmtest.Write(t, filepath.Join(dir, "init"), "#!/bin/sh\nfor f in "+identities+"; do echo \"$f $(cat $f)\"; done >/first\nwhile :; do sleep 1000; done\n")
	addTo(t, tar, dir, "init", "sbin/init")
	return tar
}

// addTo puts a program into a root tar.
func addTo(t *testing.T, tar, dir, file, as string) {
	t.Helper()
	c := exec.Command("tar", "-rf", tar, "--owner=0", "--group=0", "--mode=755", "--transform", "s,^"+file+"$,./"+as+",", "-C", dir, file)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
}

// firstSeen says which identity an image's init found that isn't the machine's.
func firstSeen(t *testing.T, h *vmtest.Host, name string) (complaint string) {
	t.Helper()
	var first string
	vmtest.Until(t, "the init's note", time.Minute, func() bool {
		first = h.OK(t, "vm", "exec", name, "--", "sh", "-c", "cat /first || :")
		return strings.Count(first, "\n") == len(strings.Fields(identities))
	})
	now := h.OK(t, "vm", "exec", name, "--", "sh", "-c", "for f in "+identities+"; do echo \"$f $(cat $f)\"; done")
	if first != now {
		return fmt.Sprintf("first %q, now %q", first, now)
	}
	return ""
}

// keysTar is the default image with what makes SSH host keys.
func keysTar(t *testing.T) string {
	t.Helper()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen here to put into an image")
	}
	tar := filepath.Join(t.TempDir(), "keys.tar")
	copyAll(t, vmtest.RootTar(t), tar)
	addTo(t, tar, filepath.Dir(keygen), "ssh-keygen", "usr/bin/ssh-keygen")
	return tar
}

// watch makes a host key and starts a program that notes, over and over, the time
// and then which machine it is on. It starts no program for that: under emulation
// one takes longer than a machine has no identity.
const watch = `mkdir -p /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key || exit 9
cat >/root/watch <<'END'
exec 9<> <(:)
while :; do
	t=$EPOCHREALTIME h= m= a= b= k=
	read -r h </proc/sys/kernel/hostname; read -r m </etc/machine-id; read -r a </sys/class/net/eth0/address
	read -r b </proc/sys/kernel/random/boot_id; read -r k </etc/ssh/ssh_host_ed25519_key.pub
	echo "$t|$h|$m|$a|$b|$k"
	read -t 0.02 -u 9
done >/root/watched 2>/dev/null
END
systemd-run --quiet --unit=watcher bash /root/watch
until [ -s /root/watched ]; do sleep 0.1; done`

// watchedFields are what is noted after the time.
var watchedFields = []string{guest.RenewHostname, guest.RenewMachineID, guest.RenewNetwork, guest.RenewBootID, guest.RenewHostKeys}

// warmWatched makes an image template with a watcher in it.
func warmWatched(t *testing.T, h *vmtest.Host) *kept {
	t.Helper()
	h.OK(t, "image", "warm", "keys", "--after", watch)
	all := allTemplates(t, h)
	i := slices.IndexFunc(all, func(m banger.Template) bool { return m.Image == "keys" })
	if i < 0 {
		t.Fatalf("no image template: %+v", all)
	}
	return keepTemplate(t, h, all[i].ID)
}

// watched creates a VM of the image template and returns what is wrong with it,
// the host's own complaint if it has one; then it deletes the VM.
func (k *kept) watched(t *testing.T, name string) (complaints []string) {
	t.Helper()
	began := time.Now()
	vmtest.Until(t, "a template of some age", time.Minute, func() bool { began = time.Now(); return began.Sub(k.made) > age })
	k.create(t, name, "--image", "keys")
	defer k.h.OK(t, "vm", "delete", name)
	if vm := k.h.Show(t, name); vm.Launch == nil || vm.Launch.Template != k.id {
		return []string{fmt.Sprintf("not restored: %+v", vm.Launch)}
	}
	if complaint := reseeded(t, k.h, name); complaint != "" {
		complaints = append(complaints, guest.RenewRandom+": "+complaint)
	}
	var lines [][]string
	fresh := func(line []string) bool {
		at, err := strconv.ParseFloat(line[0], 64)
		return err == nil && at >= float64(began.UnixMilli())/1e3
	}
	vmtest.Until(t, "the watcher to go on", time.Minute, func() bool {
		lines = nil
		for line := range strings.Lines(k.h.OK(t, "vm", "exec", name, "--", "cat", "/root/watched")) {
			if f := strings.Split(strings.TrimSpace(line), "|"); len(f) == 1+len(watchedFields) && f[0] != "" {
				lines = append(lines, f)
			}
		}
		return len(lines) > 1 && fresh(lines[len(lines)-1])
	})
	last := lines[len(lines)-1]
	for i, what := range watchedFields {
		old := lines[0][i+1] // while the template was made
		wrong := slices.IndexFunc(lines, func(f []string) bool { return fresh(f) && (f[i+1] != last[i+1] || f[i+1] == old || f[i+1] == "") })
		if wrong >= 0 {
			complaints = append(complaints, fmt.Sprintf("%s: %q, of the template %q, in the end %q", what, lines[wrong][i+1], old, last[i+1]))
		}
	}
	return complaints
}

// caught creates a VM whose restored guest keeps what of its template, and has it
// found out, by the host or by what the programs in it saw.
func (k *kept) caught(t *testing.T, name, what string) {
	t.Helper()
	complaints := k.watched(t, name)
	if !slices.ContainsFunc(complaints, func(c string) bool { return strings.Contains(c, what) }) {
		t.Errorf("%s isn't caught: %q", name, complaints)
	}
	t.Logf("%s: %.300q", name, complaints)
}
