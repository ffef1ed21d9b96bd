package vm_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/guest"
)

// saboteurs are changes to the agent's own source that leave out what a restored
// guest must make new, or do it late, and have the agent swear that it was done.
//
// That the generator isn't reseeded can't be seen: Debian's kernel reseeds it by
// itself in a restored guest, whose seed is older than half its uptime, from the
// processor's counter and its random numbers (crng_has_old_seed and
// extract_entropy in drivers/char/random.c). Were it not new, nor would the boot id be.
var saboteurs = []struct {
	name   string
	caught string // one of guest.Renewals that the host misses
	file   string
	edits  []string // old, new, old, new, …
}{
	{"the clock isn't set", guest.RenewClock, "agent/renew/renew.go", []string{
		"return clock(id.Time)", "return nil",
	}},
	{"the boot id is the template's", guest.RenewBootID, "agent/renew/freeze.go", []string{
		"if err := load(); err != nil {", "_, _ = BootID()\n\tif err := load(); err != nil {",
	}},
	{"no host name", guest.RenewHostname, "agent/renew/renew.go", []string{
		"return hostname(id.Hostname)", "return nil",
	}},
	{"no machine-id", guest.RenewMachineID, "agent/boot/machine.go", []string{
		"writeIdentity(id)", "writeIdentity(guest.Identity{Hostname: id.Hostname, MachineID: \"of the template\"})",
		"renew.Run(id, renew.Late())", "renew.Run(guest.Identity{MachineID: \"of the template\"}, renew.Late())",
	}},
	{"no network of its own", guest.RenewNetwork, "agent/boot/machine.go", []string{
		"network <- nic.Configure(id.Net)", "network <- nic.Configure(nil)",
		"renew.Run(id, renew.Late())", "renew.Run(guest.Identity{MachineID: id.MachineID}, renew.Late())",
	}},
	{"all of it late", guest.RenewClock, "agent/renew/renew.go", []string{
		"if err := s.Do(id); err != nil {", "go func() { time.Sleep(5 * time.Second); _ = s.Do(id) }()\n\t\tif err := error(nil); err != nil {",
	}},
}

// A guest that keeps something of its template is never a VM, whatever its agent
// says: the VM is booted, says why, and the template is gone.
func TestSaboteurs(t *testing.T) {
	templated(t)
	if os.Getenv("BANGER_BIN") != "" {
		t.Skip("no Go here to build them with")
	}
	for _, s := range saboteurs {
		t.Run(s.name, func(t *testing.T) {
			h := configured(t, "memory_mib = 256\nvcpu = 1\n")
			h.bin = sabotaged(t, s.file, s.edits)
			began := time.Now()
			id := strings.TrimSpace(h.ok(t, "template", "create", "-q"))
			// A boot id is only seen to be old by the second who has it.
			for _, name := range []string{"one", "two"} {
				if name == "one" && s.caught != guest.RenewBootID {
					continue
				}
				until(t, "a template of some age", time.Minute, func() bool { return time.Since(began) > 10*time.Second })
				h.ok(t, "vm", "create", "-q", "--name", name)
				defer h.ok(t, "vm", "delete", name)
			}
			if vm := h.show(t, "two"); vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, s.caught) || !strings.Contains(vm.Launch.Why, id) {
				t.Errorf("it isn't caught: %+v", vm.Launch)
			}
		})
	}
}

// sabotaged builds the programs, the agent with edits in one of its files.
func sabotaged(t *testing.T, file string, edits []string) (bin string) {
	t.Helper()
	real, err := filepath.Abs(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	for e := range slices.Chunk(edits, 2) {
		if strings.Count(string(text), e[0]) != 1 {
			t.Fatalf("%s doesn't have %q once", file, e[0])
		}
		text = []byte(strings.Replace(string(text), e[0], e[1], 1))
	}
	dir := t.TempDir()
	edited, overlay := filepath.Join(dir, "edited.go"), filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]any{"Replace": map[string]string{real: edited}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, edited, string(text))
	write(t, overlay, string(raw))
	bin = filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"banger", "bangerd", "banger-shim"} {
		if err := os.Link(filepath.Join(shared.bin, p), filepath.Join(bin, p)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-ldflags", "-s -w", "-o", filepath.Join(bin, "banger-agent"), "banger/cmd/banger-agent")
	build.Env = shared.env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return bin
}
