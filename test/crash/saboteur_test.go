package crash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/guest"
	"banger/test/vmtest"
)

// edit is a change to one of our source files, in which old stands once.
type edit struct{ file, old, new string }

// saboteurs make an agent that leaves out what a restored guest must make new, or
// does it 20 s late, or lets programs run first, and in each case swears that all
// was done as it should be; or one that is killed there. Which, the VM's name says.
var saboteurs = []edit{
	{"guest/agent/renew/renew.go", "// SetClock sets", `// Sabotaged does something, doesn't, or does it late.
func Sabotaged(id guest.Identity, name string, do func() error) error {
	switch name = strings.ReplaceAll(strings.ToLower(name), " ", "-"); id.Hostname {
	case name + "-skipped":
		return nil
	case name + "-late":
		go func() { time.Sleep(20 * time.Second); _ = do() }()
		return nil
	case name + "-dies":
		if watched { // not when it is booted then, and the next one lives
			_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	return do()
}

// SetClock sets`},
	{"guest/agent/renew/renew.go", "if err := s.Do(id); err != nil {", "if err := Sabotaged(id, s.Name, func() error { return s.Do(id) }); err != nil {"},
	// Where all that a step does is to look, the work is here.
	{"guest/agent/boot/machine.go", "network <- nic.Configure(id.Net)",
		"network <- renew.Sabotaged(id, guest.RenewNetwork, func() error { return nic.Configure(id.Net) })"},
	{"guest/agent/boot/machine.go", "if err := writeIdentity(id); err != nil {", `if id.Hostname == early {
		fmt.Fprintf(m.pid1, "%s\n", findInit(id.NoInit))
		m.pid1.Close()
		time.Sleep(time.Second)
	}
	if err := renew.Sabotaged(id, guest.RenewMachineID, func() error { return writeIdentity(id) }); err != nil {`},
	{"guest/agent/boot/machine.go", `if _, err := fmt.Fprintf(m.pid1, "%s\n", ready.Init); err != nil {`,
		`if _, err := fmt.Fprintf(m.pid1, "%s\n", ready.Init); err != nil && id.Hostname != early {`},
	{"guest/agent/boot/freeze.go", "if err := nic.Reconfigure(old.Identity.Net, id.Net); err != nil {",
		"if err := renew.Sabotaged(id, guest.RenewNetwork, func() error { return nic.Reconfigure(old.Identity.Net, id.Net) }); err != nil {"},
	{"guest/agent/boot/freeze.go", "if err := errors.Join(forgetName(old.Identity.Hostname), writeIdentity(id)); err != nil {",
		"if err := renew.Sabotaged(id, guest.RenewMachineID, func() error { return errors.Join(forgetName(old.Identity.Hostname), writeIdentity(id)) }); err != nil {"},
	{"guest/agent/boot/freeze.go", "	ready, err := m.rename(old, id)", `	if id.Hostname == early {
		_ = m.held.Release()
	}
	ready, err := m.rename(old, id)`},
	{"guest/agent/boot/freeze.go", "// Freeze brings", "const early = \"thawed-early\"\n\n// Freeze brings"},
}

// A guest that keeps something of its template, or gets to it when programs have
// run already, is never a VM, whatever its agent says: the VM is booted, says why,
// and the template is gone. What no host can see, the guest's own kernel tells.
func TestSaboteurs(t *testing.T) {
	canSabotage(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.Bin = sabotaged(t, append(slices.Clone(saboteurs), witness...))
	tp := keepTemplate(t, h, strings.TrimSpace(h.OK(t, "template", "create", "-q")))
	h.OK(t, "image", "import", "--name", "first", firstTar(t))
	defer h.OK(t, "image", "delete", "first")
	tp.restored(t, "honest", "--image", "first")
	for name, complaint := range map[string]string{"reseeded": reseeded(t, h, "honest"), "first": firstSeen(t, h, "honest")} {
		if complaint != "" {
			t.Errorf("an honest agent is accused of %s: %s", name, complaint)
		}
	}
	h.OK(t, "vm", "delete", "honest")
	for _, what := range guest.Renewals() {
		for _, how := range []string{"skipped", "late"} {
			name := strings.ReplaceAll(what, " ", "-") + "-" + how
			switch what {
			case guest.RenewBootID: // below
			case guest.RenewRandom:
				// Two that got the same numbers have the same boot id, which the host sees;
				// where the kernel had some of its own, it tells itself.
				tp.create(t, name)
				vm := h.Show(t, name)
				if seen := vm.Launch != nil && vm.Launch.Template == "" && strings.Contains(vm.Launch.Why, what); !seen {
					if complaint := reseeded(t, h, name); !strings.Contains(complaint, "reseeded") {
						t.Errorf("%s isn't caught: %q", name, complaint)
					}
				}
				h.OK(t, "vm", "delete", name)
			default:
				tp.refused(t, name, what)
			}
		}
	}
	for _, what := range []string{guest.RenewClock, guest.RenewHostname, guest.RenewMachineID, guest.RenewNetwork} {
		tp.itself(t, strings.ReplaceAll(what, " ", "-")+"-dies")
	}
	tp.restored(t, "thawed-early", "--image", "first")
	if complaint := firstSeen(t, h, "thawed-early"); !strings.Contains(complaint, "/etc/machine-id") {
		t.Errorf("an early start of the init isn't caught: %q", complaint)
	}
	h.OK(t, "vm", "delete", "thawed-early")
}

// The kernel makes a boot id up when it is first asked for one.
func TestBootIDAskedForBeforeTheFreeze(t *testing.T) {
	canSabotage(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.Bin = sabotaged(t, []edit{{"guest/agent/renew/freeze.go", "if err := load(); err != nil {", "_, _ = BootID()\n\tif err := load(); err != nil {"}})
	tp := keepTemplate(t, h, strings.TrimSpace(h.OK(t, "template", "create", "-q")))
	tp.restored(t, "one") // that it is old is seen by the second who has it
	tp.refused(t, "two", guest.RenewBootID)
	h.OK(t, "vm", "delete", "one")
}

// Of an image template programs are up, which watch what becomes of them.
func TestImageSaboteurs(t *testing.T) {
	vmtest.TakesLong(t)
	canSabotage(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	h.Bin = sabotaged(t, append(slices.Clone(saboteurs), witness...))
	keys := keysTar(t)
	h.OK(t, "image", "import", "--name", "keys", keys)
	defer h.OK(t, "image", "delete", "keys")
	tp := warmWatched(t, h)
	for _, complaint := range tp.watched(t, "honest") {
		t.Errorf("an honest agent is accused: %s", complaint)
	}
	for _, what := range append(guest.Renewals(), guest.RenewHostKeys) {
		for _, how := range []string{"skipped", "late"} {
			tp.caught(t, strings.ToLower(strings.ReplaceAll(what, " ", "-"))+"-"+how, what)
		}
	}
	tp.caught(t, "thawed-early", guest.RenewBootID)
	for _, what := range []string{guest.RenewClock, guest.RenewNetwork, guest.RenewHostKeys} {
		tp.itself(t, strings.ToLower(strings.ReplaceAll(what, " ", "-"))+"-dies", "--image", "keys")
	}
	forget(t, h) // which is gone where the last guest was no good

	h.Close()
	h.Bin = sabotaged(t, append(slices.Clone(witness), edit{"guest/agent/renew/hold.go", "if err := h.dropKeys(); err != nil {", "if err := error(nil); err != nil {"}))
	tp = warmWatched(t, h)
	tp.caught(t, "keys-kept", guest.RenewHostKeys)
	forget(t, h)
}

func canSabotage(t *testing.T) {
	t.Helper()
	vmtest.TemplatedByQEMU(t)
	if os.Getenv("BANGER_BIN") != "" {
		t.Skip("no Go here to build saboteurs with")
	}
}

// kept is a template with a copy, as one whose guest was no good is removed.
type kept struct {
	h             *vmtest.Host
	id, dir, copy string
	made          time.Time
}

func keepTemplate(t *testing.T, h *vmtest.Host, id string) *kept {
	t.Helper()
	k := &kept{h: h, id: id, dir: filepath.Join(templates(h), id), copy: filepath.Join(t.TempDir(), "template"), made: time.Now()}
	copyAll(t, k.dir, k.copy)
	return k
}

func copyAll(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// putBack makes the template be there.
func (k *kept) putBack(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(k.dir); os.IsNotExist(err) {
		copyAll(t, k.copy, k.dir)
	}
}

// age is what a template must have for its clock to be seen to be old.
const age = 10 * time.Second

// create creates a VM when the template has some age.
func (k *kept) create(t *testing.T, name string, args ...string) {
	t.Helper()
	k.putBack(t)
	vmtest.Until(t, "a template of some age", time.Minute, func() bool { return time.Since(k.made) > age })
	k.h.OK(t, append([]string{"vm", "create", "-q", "--name", name}, args...)...)
}

// restored creates a VM that must come from the template.
func (k *kept) restored(t *testing.T, name string, args ...string) {
	t.Helper()
	k.create(t, name, args...)
	if vm := k.h.Show(t, name); vm.Launch == nil || vm.Launch.Template != k.id {
		t.Fatalf("%s was not restored: %+v", name, vm.Launch)
	}
}

// refused creates a VM whose restored guest must be found out, and deletes it.
func (k *kept) refused(t *testing.T, name, why string) {
	t.Helper()
	k.create(t, name)
	if vm := k.h.Show(t, name); vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, why) || !strings.Contains(vm.Launch.Why, k.id) {
		t.Errorf("%s isn't caught: %+v", name, vm.Launch)
	}
	if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
		t.Errorf("%s: its template is still there: %v", name, err)
	}
	k.h.OK(t, "vm", "delete", name)
}

// itself creates a VM whose agent is killed while it makes it one: it is booted
// and says why, or was restored without a fault; then it is deleted.
func (k *kept) itself(t *testing.T, name string, args ...string) {
	t.Helper()
	k.create(t, name, args...)
	vm := k.h.Show(t, name)
	switch {
	case vm.Launch == nil || vm.Launch.Template == "" && !strings.Contains(vm.Launch.Why, k.id):
		t.Errorf("%s: it doesn't say why it was booted: %+v", name, vm.Launch)
	case vm.Launch.Template != "":
		if complaint := reseeded(t, k.h, name); complaint != "" {
			t.Errorf("%s: %s", name, complaint)
		}
		t.Logf("%s: restored all the same", name)
	default:
		t.Logf("%s: %s", name, vm.Launch.Why)
	}
	if got := k.h.OK(t, "vm", "exec", name, "--", "cat", "/proc/sys/kernel/hostname", "/etc/hostname"); got != name+"\n"+name+"\n" {
		t.Errorf("%s calls itself %q", name, got)
	}
	if slices.Contains(args, "keys") {
		k.h.OK(t, "vm", "exec", name, "--", "sh", "-c", "test -s /etc/ssh/ssh_host_ed25519_key.pub && ! grep template /etc/ssh/*.pub && ! ls /etc/ssh/.banger*")
	}
	k.h.OK(t, "vm", "delete", name)
}

// sabotaged builds the programs, the agent with edits in its files.
func sabotaged(t *testing.T, edits []edit) (bin string) {
	t.Helper()
	dir := t.TempDir()
	texts, replace := map[string]string{}, map[string]string{}
	for i, e := range edits {
		real, err := filepath.Abs(filepath.Join("../..", e.file))
		if err != nil {
			t.Fatal(err)
		}
		if replace[real] == "" {
			text, err := os.ReadFile(real)
			if err != nil {
				t.Fatal(err)
			}
			texts[real], replace[real] = string(text), filepath.Join(dir, fmt.Sprintf("edited%d.go", i))
		}
		if strings.Count(texts[real], e.old) != 1 {
			t.Fatalf("%s doesn't have %q once", e.file, e.old)
		}
		texts[real] = strings.Replace(texts[real], e.old, e.new, 1)
	}
	for real, text := range texts {
		vmtest.Write(t, replace[real], text)
	}
	overlay := filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	vmtest.Write(t, overlay, string(raw))
	bin = filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"banger", "bangerd", "banger-shim"} {
		if err := os.Link(filepath.Join(vmtest.Shared.Bin, p), filepath.Join(bin, p)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-ldflags", "-s -w", "-o", filepath.Join(bin, "banger-agent"), "banger/cmd/banger-agent")
	build.Env = vmtest.Shared.Env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return bin
}
