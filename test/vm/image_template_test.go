package vm_test

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/test/vmtest"
)

// An image template is the image up, with what a command made and started in it;
// VMs of it go on from there as machines of their own.
func TestImageTemplate(t *testing.T) {
	vmtest.Templated(t)
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	if r := h.Run(nil, "image", "warm", vmtest.Image, "--after", "echo no such luck >&2; exit 3"); r.Status == 0 || !strings.Contains(string(r.Stderr), "status 3") || !strings.Contains(string(r.Stderr), "no such luck") {
		t.Errorf("a command that fails: %d %s", r.Status, r.Stderr)
	}
	h.OK(t, "image", "warm", vmtest.Image, "--after", `echo made > /root/made
		systemd-run --quiet --unit=ticker sh -c 'while :; do echo $$$$ $(cat /proc/sys/kernel/hostname) >> /root/ticks; sleep 0.1; done'
		until [ -s /root/ticks ]; do sleep 0.1; done`)
	templates, err := vmtest.Results[banger.Template](h.OK(t, "template", "list", "--json"))
	if err != nil || len(templates) == 0 || templates[0].Image != vmtest.Image {
		t.Fatalf("%+v, %v", templates, err)
	}
	const many = 3
	var wg sync.WaitGroup
	facts := make([][]string, many)
	for i := range many {
		wg.Go(func() {
			name := fmt.Sprintf("fork%d", i)
			if r := h.Run(nil, "vm", "create", "-q", "--name", name); r.Status != 0 {
				t.Errorf("%s: %s", name, r.Stderr)
				return
			}
			before := time.Now()
			r := h.Run(nil, "vm", "exec", name, "--", "sh", "-c", `date +%s.%N; cat /root/made; systemctl is-system-running
				tail -n 1 /root/ticks | cut -d' ' -f1; pgrep -o -f 'while :' ; hostname; cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id
				head -c 16 /dev/urandom | od -An -tx8; cat /proc/sys/kernel/random/uuid; grep 127.0.1.1 /etc/hosts`)
			facts[i] = append(strings.Split(strings.TrimSpace(string(r.Stdout)), "\n"), before.Format(time.RFC3339Nano))
		})
	}
	wg.Wait()
	defer func() {
		for i := range many {
			h.Run(nil, "vm", "delete", fmt.Sprintf("fork%d", i))
		}
		h.Run(nil, "template", "delete", templates[0].ID) // other tests' VMs are to start from others
	}()
	seen := map[string]int{}
	for i, f := range facts {
		name := fmt.Sprintf("fork%d", i)
		vm := h.Show(t, name)
		if vm.Launch == nil || vm.Launch.Template != templates[0].ID || !strings.Contains(strings.Join(vm.Launch.Renewed, " "), guest.RenewHostKeys) {
			t.Fatalf("%s: %+v", name, vm.Launch)
		}
		if len(f) != 13 {
			t.Fatalf("%s says %q", name, f)
		}
		if f[1] != "made" || f[2] != "running" && f[2] != "degraded" {
			t.Errorf("%s is not what the template was: %q", name, f)
		}
		if f[3] != f[4] {
			t.Errorf("%s: the process that ticks is %s, ticks are %s's", name, f[4], f[3])
		}
		if f[5] != name || f[11] != "127.0.1.1\t"+name {
			t.Errorf("%s calls itself %q, %q", name, f[5], f[11])
		}
		for _, fact := range f[6:11] {
			if other, ok := seen[fact]; ok {
				t.Errorf("%s and fork%d have %q in common", name, other, fact)
			}
			seen[fact] = i
		}
		// The guest's answer lies between our two readings; only a lower bound is known.
		now, err := strconv.ParseFloat(f[0], 64)
		began, terr := time.Parse(time.RFC3339Nano, f[12])
		if err != nil || terr != nil || now < float64(began.UnixNano())/1e9-0.1 || math.Abs(now-float64(began.Unix())) > 60 {
			t.Errorf("%s: the clock says %s at %s", name, f[0], f[12])
		}
	}
	// It is for its disk size alone, and for those who want it.
	for name, args := range map[string][]string{"larger": {"--disk-size", "11G"}, "cold": {"--cold"}} {
		h.OK(t, append([]string{"vm", "create", "-q", "--name", name}, args...)...)
		if vm := h.Show(t, name); vm.Launch == nil || vm.Launch.Template == templates[0].ID {
			t.Errorf("%s: %+v", name, vm.Launch)
		}
		h.OK(t, "vm", "delete", name)
	}
	// A VM of it is stopped and started like any other, with its files.
	h.OK(t, "vm", "exec", "fork0", "--", "sh", "-c", "echo mine > /root/mine; sync")
	h.OK(t, "vm", "restart", "fork0")
	if got := h.OK(t, "vm", "exec", "fork0", "--", "cat", "/root/made", "/root/mine", "/etc/hostname"); got != "made\nmine\nfork0\n" {
		t.Errorf("after a restart: %q", got)
	}
}
