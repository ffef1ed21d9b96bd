package vm_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/test/vmtest"
)

// newcomers is how many VMs are restored from one template at once.
const newcomers = 8

// facts is a script that prints what no two machines may have in common, a line each.
const facts = `hostname; cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id
	head -c 16 /dev/urandom | od -An -tx8
	perl -e '$b = "\0" x 16; syscall(318, $b, 16, 0) == 16 or die; print unpack("H*", $b), "\n"'
	cat /proc/sys/kernel/random/uuid`

// what facts are.
var what = []string{"host name", "machine-id", "MAC", "boot id", "/dev/urandom", "getrandom", "UUID"}

// VMs restored from one template have nothing of it in common that a program
// would take for a machine's own, and what was theirs before isn't in it.
func TestWarmStartsAreStrangers(t *testing.T) {
	vmtest.Templated(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	secret := "planted-" + strings.Repeat("s3cr3t", 4)
	home := t.TempDir()
	h.Env = append(h.Env, "PLANTED="+secret, "HOME="+home, "SSH_AUTH_SOCK="+filepath.Join(home, secret))
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	vmtest.Write(t, filepath.Join(home, ".docker", "config.json"), `{"auths":{"registry.example":{"auth":"`+secret+`"}}}`)
	repo := workspaceOf(t, secret)
	h.OK(t, "vm", "create", "--cold", "--name", "keeper")
	defer h.OK(t, "vm", "delete", "keeper")
	keep := func() {
		h.OK(t, "vm", "exec", "-e", "TOKEN="+secret, "keeper", "--", "sh", "-c", "echo $TOKEN > /root/x; sync")
	}
	keep()
	h.OK(t, "vm", "run", "--cold", "--rm", repo, "--", "sh", "-c", "cat secret; sync")
	// Firecracker's memory is no file; a template's is searched the same way.
	if memory := h.Show(t, "keeper").Held.RAMFile; *vmtest.Hypervisor == "qemu" && !holds(t, memory, secret) {
		t.Errorf("%s doesn't hold what was planted: the search finds nothing", memory)
	}
	h.OK(t, "template", "create")
	keep()
	restoreAtOnce(t, h, newcomers)
	h.OK(t, "vm", "run", "--rm", repo, "--", "cat", "secret")
	files := 0
	err := filepath.WalkDir(filepath.Join(filepath.Dir(h.State), "cache/banger/templates"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if files++; holds(t, path, secret) {
				t.Errorf("%s holds what was planted", path)
			}
		}
		return err
	})
	if err != nil || files < 3 {
		t.Fatalf("%d files of templates, %v", files, err)
	}
}

// restoreAtOnce restores n VMs at once and compares them.
func restoreAtOnce(t *testing.T, h *vmtest.Host, n int) {
	t.Helper()
	var wg sync.WaitGroup
	found := make([][]string, n)
	name := func(i int) string { return fmt.Sprintf("warm%d", i) }
	for i := range n {
		wg.Go(func() {
			if r := h.Run(nil, "vm", "create", "-q", "--name", name(i), "--disk-size", fmt.Sprintf("%dG", i+1)); r.Status != 0 {
				t.Errorf("%s: %s", name(i), r.Stderr)
				return
			}
			r := h.Run(nil, "vm", "exec", name(i), "--", "sh", "-c", facts)
			found[i] = strings.Split(strings.TrimSpace(string(r.Stdout)), "\n")
		})
	}
	wg.Wait()
	defer func() {
		for i := range n {
			h.Run(nil, "vm", "delete", name(i))
		}
	}()
	restored := true
	for i := range n {
		if vm := h.Show(t, name(i)); vm.Launch == nil || vm.Launch.Template == "" {
			t.Errorf("%s was not restored: %+v", name(i), vm.Launch)
			restored = false
		}
	}
	if !restored {
		t.FailNow()
	}
	seen := map[string]int{}
	for i := range n {
		if len(found[i]) != len(what) {
			t.Fatalf("%s says %q", name(i), found[i])
		}
		for k, fact := range found[i] {
			if other, ok := seen[fact]; ok {
				t.Errorf("%s and %s have the same %s: %s", name(other), name(i), what[k], fact)
			}
			seen[fact] = i
		}
		off, sure := clockOff(t, h, name(i))
		// Eight guests that start leave none the time for a good reading, by us or by
		// the daemon that sets their clocks.
		vmtest.Until(t, name(i)+"'s clock within 100 ms of the host's", 3*time.Minute, func() bool {
			if sure > 50*time.Millisecond || off.Abs() > 100*time.Millisecond+sure {
				t.Logf("%s: its clock is %v off, give or take %v", name(i), off, sure)
				off, sure = clockOff(t, h, name(i))
				return false
			}
			return true
		})
		st, err := vmtest.Results[banger.Stats](h.OK(t, "vm", "stats", name(i), "--json"))
		if err != nil || len(st) != 1 {
			t.Fatalf("stats: %v", err)
		}
		t.Logf("%s: PSS %d MiB, private %d MiB; its clock is %v off, give or take %v", name(i), st[0].PSS>>20, st[0].Private>>20, off, sure)
	}
}

// clockOff returns how far a guest's clock is ahead of the host's, and how
// exactly that can be told: by half a round trip, of which the shortest counts.
func clockOff(t *testing.T, h *vmtest.Host, name string) (off, sure time.Duration) {
	t.Helper()
	// The shell reads its own clock: a program started for each reading would take
	// most of the trip, all of it before it looks.
	c := h.Command(t.Context(), "vm", "exec", name, "--", "bash", "-c", "while read _; do echo $EPOCHREALTIME; done")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	sure = time.Hour
	for range 50 {
		began := time.Now()
		if _, err := in.Write([]byte("\n")); err != nil || !lines.Scan() {
			t.Fatalf("the clock of %s: %v, %v", name, err, lines.Err())
		}
		trip := time.Since(began)
		us, err := strconv.ParseInt(strings.Replace(lines.Text(), ".", "", 1), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if trip/2 < sure {
			off, sure = time.UnixMicro(us).Sub(began.Add(trip/2)), trip/2
		}
	}
	if err := errors.Join(in.Close(), c.Wait()); err != nil {
		t.Fatal(err)
	}
	return off, sure
}

// workspaceOf is a repository with a secret in it.
func workspaceOf(t *testing.T, secret string) string {
	t.Helper()
	dir := t.TempDir()
	vmtest.Write(t, filepath.Join(dir, "secret"), secret)
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}} {
		c := exec.Command("git", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git: %v: %s", err, out)
		}
	}
	return dir
}

// holds looks through every byte of a file.
func holds(t *testing.T, path, secret string) bool {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(data, []byte(secret))
}

// A template that was damaged isn't used: the VM boots, says so, and another
// template takes its place.
func TestDamagedTemplate(t *testing.T) {
	vmtest.Templated(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	id := strings.TrimSpace(h.OK(t, "template", "create"))
	path := filepath.Join(filepath.Dir(h.State), "cache/banger/templates", id, "state")
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	h.OK(t, "vm", "create", "--name", "hurt")
	defer h.OK(t, "vm", "delete", "hurt")
	if vm := h.Show(t, "hurt"); vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, "damaged") {
		t.Errorf("launch %+v", vm.Launch)
	}
	vmtest.Until(t, "another template", 3*time.Minute, func() bool { return strings.Contains(h.OK(t, "template", "list"), id) })
}
