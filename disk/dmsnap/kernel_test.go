package dmsnap_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/disk/diskfile"
	"banger/disk/dmsnap"
)

// What an Attach that died left is completed by the next one, and gone after Detach.
func TestDeaths(t *testing.T) {
	for _, at := range []int{dmsnap.DiedWithCreate, dmsnap.DiedWithTable} {
		for _, attached := range []bool{true, false} {
			t.Run(fmt.Sprintf("at %d, attached again %v", at, attached), func(t *testing.T) {
				d, dir := fresh(t)
				must(t, d.Die(id, dir, at))
				if attached {
					path, _ := attach(t, d, dir)
					if b := readAt(t, path, 1024+56, 2); b != "\x53\xef" {
						t.Errorf("no filesystem, but %x", b)
					}
				}
				detach(t, d, dir, banger.Handles{})
			})
		}
	}
}

func readAt(t *testing.T, path string, at int64, n int) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, at)
	must(t, err)
	return string(b)
}

func writeAt(path string, at int64, s string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(s), at)
	return errors.Join(err, f.Sync(), f.Close())
}

// A device that somebody has open stays, and is said to be there until it is gone.
func TestBusy(t *testing.T) {
	d, dir := fresh(t)
	path, h := attach(t, d, dir)
	f, err := os.Open(path)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	left, err := d.Detach(ctx, id, dir, h)
	wantCode(t, err, banger.CodeUnavailable)
	if left != h {
		t.Errorf("left %+v of %+v", left, h)
	}
	// Grown meanwhile, it is the one that is in use all the same.
	must(t, d.Grow(t.Context(), dir, 256))
	if _, again := attach(t, d, dir); again != h {
		t.Errorf("attached again: %+v, had %+v", again, h)
	}
	must(t, f.Close())
	detach(t, d, dir, left)
}

// The device of a VM whose directory is gone goes all the same.
func TestWithoutFiles(t *testing.T) {
	d, dir := fresh(t)
	attach(t, d, dir)
	must(t, os.RemoveAll(dir))
	list, err := d.Objects(t.Context())
	must(t, err)
	kinds := map[string]string{}
	for _, f := range list {
		kinds[f.Kind+" "+f.VM] = string(f.Claim)
	}
	if len(kinds) != 3 || kinds["dm "+id] != "" || kinds["loop "+id] != "" || kinds["loop "] != string(banger.Owned) {
		t.Errorf("objects: %+v", list)
	}
	must(t, d.RemoveObjects(t.Context(), id))
	eventually(t, "no object of ours", func() bool {
		list, err := d.Objects(t.Context())
		must(t, err)
		return len(list) == 0
	})
}

// Devices and loops that look like ours are seen, and refused.
func TestLookAlikes(t *testing.T) {
	type bed struct {
		d   *dmsnap.Disks
		dir string
	}
	dm := func(t *testing.T, name, uuid string) func() {
		argv := []string{"dmsetup", "create", name, "--table", "0 8 error"}
		if uuid != "" {
			argv = append(argv, "--uuid", uuid)
		}
		run(t, argv...)
		return func() { run(t, "dmsetup", "remove", "--retry", name) }
	}
	for what, c := range map[string]struct {
		plant  func(t *testing.T, b bed) (remove func())
		attach banger.Code // what Attach says; "" when it isn't in its way
		kind   string
		claim  banger.Claim
	}{
		"our name": {func(t *testing.T, b bed) func() { return dm(t, "banger-"+id, "") },
			banger.CodeConflict, "dm", banger.Foreign},
		"our name, another's uuid": {func(t *testing.T, b bed) func() { return dm(t, "banger-"+id, "LVM-0123") },
			banger.CodeConflict, "dm", banger.Foreign},
		"another installation's": {func(t *testing.T, b bed) func() { return dm(t, "banger-"+id, "banger-"+id+"-000000000000") },
			banger.CodeConflict, "dm", banger.Foreign},
		"a name like ours": {func(t *testing.T, b bed) func() { return dm(t, "banger-notes", "banger-notes") },
			"", "dm", banger.Foreign},
		"a loop on our file": {func(t *testing.T, b bed) func() {
			loop := run(t, "losetup", "-f", "--show", filepath.Join(b.dir, "disk.cow"))
			return func() { run(t, "losetup", "-d", loop) }
		}, banger.CodeConflict, "loop", banger.Foreign},
	} {
		t.Run(what, func(t *testing.T) {
			d, dir := fresh(t)
			before := nodes(t)
			remove := c.plant(t, bed{d, dir})
			planted := nodes(t)
			path, _, err := d.Attach(t.Context(), id, dir)
			if c.attach != "" {
				wantCode(t, err, c.attach)
			} else {
				must(t, err)
				if b := readAt(t, path, 1024+56, 2); b != "\x53\xef" {
					t.Errorf("no filesystem, but %x", b)
				}
			}
			list, err := d.Objects(t.Context())
			must(t, err)
			if !slices.ContainsFunc(list, func(f banger.Found) bool { return f.Kind == c.kind && f.Claim == c.claim && f.Detail != "" }) {
				t.Errorf("objects: %+v", list)
			}
			detach(t, d, dir, banger.Handles{})
			must(t, d.RemoveObjects(t.Context(), id))
			eventually(t, "what isn't ours alone", func() bool { return slices.Equal(nodes(t), planted) })
			remove()
			eventually(t, "nothing", func() bool { return slices.Equal(nodes(t), before) })
		})
	}
}

// udev, which looks into every new device for filesystems and gives the host links
// by what it finds, is kept from what guests wrote.
func TestUdevKeepsOut(t *testing.T) {
	if _, err := os.Stat("/run/udev/control"); err != nil {
		t.Skip("not run: no udev here: ", err)
	}
	d, dir := fresh(t)
	path, _ := attach(t, d, dir)
	run(t, "udevadm", "settle")
	if info := run(t, "udevadm", "info", "--query=property", path); strings.Contains(info, "ID_FS_") || !strings.Contains(info, "DM_UDEV_DISABLE_DISK_RULES_FLAG=1") {
		t.Errorf("udev says of %s:\n%s", path, info)
	}
}

// The host's filesystem runs full under a guest. The kernel gives up the snapshot
// with all that is in it; what the guest had synced is there again once there is room.
func TestFullHost(t *testing.T) {
	_, scratch := mapped(t)
	image, mnt := filepath.Join(scratch, "small.ext4"), filepath.Join(scratch, "small")
	must(t, os.Mkdir(mnt, 0o700))
	run(t, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", image, "64M")
	run(t, "mount", "-o", "loop", image, mnt)
	defer func() { run(t, "umount", mnt) }()
	d := &dmsnap.Disks{Base: diskfile.Disks{Dir: filepath.Join(scratch, "disks")}, Dir: filepath.Join(mnt, "base"), Owner: mnt}
	dir := newDir(t, mnt, id)
	_, err := d.Create(t.Context(), dir, 1024)
	must(t, err)
	defer detach(t, d, dir, banger.Handles{})
	must(t, d.Grow(t.Context(), dir, 1024))
	path, _ := attach(t, d, dir)
	wrote, failed := 0, error(nil)
	for ; failed == nil && wrote < 128; wrote++ { // MiB
		failed = writeAt(path, int64(wrote)<<20, strings.Repeat("synced ", 1<<20/7))
	}
	if failed == nil {
		t.Fatal("64 MiB took 128")
	}
	wrote--
	if err := writeAt(path, 0, "anything"); err == nil {
		t.Error("the snapshot works on")
	}
	detach(t, d, dir, banger.Handles{})
	if err := d.Grow(t.Context(), dir, 1024); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without room it may start: %v", err)
	}
	path, _ = attach(t, d, dir)
	for n := range wrote {
		if got := readAt(t, path, int64(n)<<20, 7); got != "synced " {
			t.Fatalf("MiB %d of %d reads %q", n, wrote, got)
		}
	}
	t.Logf("%d MiB were synced before it was full, and are there", wrote)
	if wrote == 0 {
		t.Error("nothing was synced")
	}
	detach(t, d, dir, banger.Handles{})
}
