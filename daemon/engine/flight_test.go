package engine_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/daemon/sqlite"
	"banger/test/fake"
)

// furnish makes on the host what each VM of the fixture has there, by its name.
func furnish(t *testing.T, w *world, vms []banger.VM) {
	t.Helper()
	life := w.host.Live(nil)
	ctx := t.Context()
	for _, vm := range vms {
		if vm.Spec.Name == "delete-nearly" {
			continue // it has nothing any more
		}
		dir := filepath.Join(w.dir, "vms", vm.ID)
		must(t, os.MkdirAll(dir, 0o700))
		if vm.Spec.Name == "create-directory" {
			continue
		}
		_, err := life.Disks().Create(ctx, dir, vm.Spec.DiskMiB)
		must(t, err)
		if vm.State == banger.Stopped || vm.Spec.Name == "create-disk" {
			continue
		}
		_, _, err = life.Disks().Attach(ctx, vm.ID, dir)
		must(t, err)
		if vm.Spec.Name == "start-attach" {
			continue
		}
		_, err = life.Networks().Set(ctx, banger.Link{VM: vm.ID, Net: vm.Net})
		must(t, err)
		_, err = life.Hypervisor().Start(ctx, banger.Machine{ID: vm.ID, Dir: dir, RAMDir: "/ram"})
		must(t, err)
		switch vm.Spec.Name {
		case "stop-ended", "stop-panic", "stop-reboot": // the guest is gone, its shim isn't
			w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitPoweroff})
		}
	}
}

// Plans of each kind that an earlier build had under way are finished as they
// should be, and so is what it wrote in other words: that a VM is to start again.
func TestPlansOfAnEarlierBuild(t *testing.T) {
	text, err := os.ReadFile("../sqlite/testdata/flight-1.sql")
	must(t, err)
	host := fake.NewHost()
	image, err := host.Live(nil).Images().Import(t.Context(), strings.NewReader("a tar"), nil)
	must(t, err)
	text = bytes.ReplaceAll(text, []byte("b3c5732cece4"), []byte(image.ID)) // whose file this host has
	dir := tempDir(t)
	path := filepath.Join(dir, "banger.db")
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), string(text))
	must(t, err)
	must(t, db.Close())
	store, err := sqlite.Open(t.Context(), path, sqlite.Unsafe)
	must(t, err)
	defer store.Close()
	w := &world{t: t, host: host, store: store, dir: dir, now: time.Now, log: io.Discard, defaults: defaults()}
	w.host.Pause = w.pause
	before, err := store.VMs(t.Context())
	must(t, err)
	furnish(t, w, before)
	d := w.open(nil)
	defer d.kill()
	ctx := context.Background()
	must(t, d.until("restart-cold", func(vm banger.VM, _ error) bool { return vm.State == banger.Running }))
	want := map[string]string{
		"start-attach": "stopped 1: its start was cut short", "start-agent": "stopped 1: its start was cut short",
		"stop-asked": "stopped 1: guest powered off", "stop-ended": "stopped 1: guest powered off", "stop-panic": "stopped 1: kernel panic: oops",
		"stop-reboot": "running 2: ", "restart-asked": "running 2: ", "restart-cold": "running 2: ",
		"stopped-reboot": "running 2: ", "stopped-forged": "running 2: ", "stopped-forged-cold": "running 2: ",
		"running": "running 1: ", "stopped": "stopped 1: ",
	}
	for name, is := range want {
		if err := d.until(name, func(vm banger.VM, _ error) bool { return strings.HasPrefix(is, string(vm.State)+" ") }); err != nil {
			t.Error(err)
		}
		vm, err := d.VM(ctx, name)
		must(t, err)
		if got := string(vm.State) + " " + string(rune('0'+vm.Boots)) + ": " + vm.Reason; got != is {
			t.Errorf("%s is %q, want %q", name, got, is)
		}
		cold := strings.HasSuffix(name, "-cold")
		if vm.Boots == 2 && (vm.Launch == nil || (vm.Launch.Why == "asked to boot") != cold) {
			t.Errorf("%s was started as %+v", name, vm.Launch)
		}
	}
	vms, err := d.VMs(ctx)
	must(t, err)
	for _, vm := range vms {
		if _, known := want[vm.Spec.Name]; !known && vm.Spec.Name != "unknown" {
			t.Errorf("%s is still there: %+v", vm.Spec.Name, vm)
		}
	}
	plans, err := store.Plans(ctx)
	if err != nil || len(plans) != 1 || plans[0].Kind != "freeze" || !slices.Equal(plans[0].Begun, []string{"memory"}) {
		t.Errorf("plans: %+v, %v", plans, err)
	}
	unknown, err := d.VM(ctx, "unknown")
	if err != nil || !strings.Contains(unknown.Reason, `a plan of the kind "freeze"`) {
		t.Errorf("%+v, %v", unknown, err)
	}
}
