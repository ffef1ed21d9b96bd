package vm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
)

// newcomers is how many VMs are restored from one template at once.
const newcomers = 8

// VMs restored from one template have nothing of it in common that a program
// would take for a machine's own, and what was theirs before isn't in it.
func TestWarmStartsAreStrangers(t *testing.T) {
	h := configured(t, "memory_mib = 256\nvcpu = 1\n")
	secret := "planted-" + strings.Repeat("s3cr3t", 4)
	h.env = append(h.env, "PLANTED="+secret)
	h.ok(t, "vm", "run", "--cold", "--rm", "--", "sh", "-c", "echo "+secret+" > /root/x; sync")
	h.ok(t, "template", "create")
	var wg sync.WaitGroup
	facts := make([][]string, newcomers)
	for i := range newcomers {
		wg.Go(func() {
			name := fmt.Sprintf("warm%d", i)
			if r := h.run(nil, "vm", "create", "-q", "--name", name, "--disk-size", fmt.Sprintf("%dG", i+1)); r.status != 0 {
				t.Errorf("%s: %s", name, r.stderr)
				return
			}
			r := h.run(nil, "vm", "exec", name, "--", "sh", "-c", `hostname; cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id
				head -c 16 /dev/urandom | od -An -tx8; cat /proc/sys/kernel/random/uuid; date +%s.%N`)
			facts[i] = strings.Split(strings.TrimSpace(string(r.stdout)), "\n")
		})
	}
	wg.Wait()
	defer func() {
		for i := range newcomers {
			h.run(nil, "vm", "delete", fmt.Sprintf("warm%d", i))
		}
	}()
	what := []string{"host name", "machine-id", "MAC", "boot id", "/dev/urandom", "UUID"}
	seen := map[string]int{}
	for i := range newcomers {
		vm := h.show(t, fmt.Sprintf("warm%d", i))
		if vm.Launch == nil || vm.Launch.Template == "" {
			t.Fatalf("warm%d was not restored: %+v", i, vm.Launch)
		}
		if len(facts[i]) != len(what)+1 {
			t.Fatalf("warm%d says %q", i, facts[i])
		}
		for k, name := range what {
			if other, ok := seen[facts[i][k]]; ok {
				t.Errorf("warm%d and warm%d have the same %s: %s", other, i, name, facts[i][k])
			}
			seen[facts[i][k]] = i
		}
		var st []banger.Stats
		if err := json.Unmarshal([]byte(h.ok(t, "vm", "stats", vm.Spec.Name, "--json")), &st); err != nil || len(st) != 1 {
			t.Fatalf("stats: %v", err)
		}
		t.Logf("warm%d: PSS %d MiB, private %d MiB", i, st[0].PSS>>20, st[0].Private>>20)
	}
	noSecret(t, h, secret)
}

// noSecret looks through every byte of the templates.
func noSecret(t *testing.T, h *host, secret string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(h.state), "cache/banger/templates/*/*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("the template's files: %q, %v", files, err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s holds what was planted in a VM", path)
		}
	}
}

// A template that was damaged isn't used: the VM boots, says so, and another
// template takes its place.
func TestDamagedTemplate(t *testing.T) {
	h := configured(t, "memory_mib = 256\nvcpu = 1\n")
	id := strings.TrimSpace(h.ok(t, "template", "create"))
	path := filepath.Join(filepath.Dir(h.state), "cache/banger/templates", id, "state")
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	h.ok(t, "vm", "create", "--name", "hurt")
	defer h.ok(t, "vm", "delete", "hurt")
	if vm := h.show(t, "hurt"); vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, "damaged") {
		t.Errorf("launch %+v", vm.Launch)
	}
	until(t, "another template", 3*time.Minute, func() bool { return strings.Contains(h.ok(t, "template", "list"), id) })
}
