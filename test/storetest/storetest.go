// Package storetest holds every banger.Store to the promises of its interface.
//
// It refuses to know what the store is made of: it is given a way to get an
// empty one and, where there is such a thing, to open it again.
package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger"
)

// Subject is a store under test. Reopen returns the same records through a new
// store, as after the death of the process that used the old one.
type Subject struct {
	Store  banger.Store
	Reopen func() banger.Store
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// Run runs the suite; open returns a new, empty store each time.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"records come back as they were": roundTrip,
		"order is age":                   order,
		"names are unique among live":    names,
		"a VM takes its operation along": ops,
		"a new VM needs its image":       references,
		"images keep names and users":    images,
		"kernels":                        kernels,
		"what is returned is a copy":     copies,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			must(t, s.Store.PutImage(t.Context(), image("debian", "aaaaaaaaaaaa"), false))
			must(t, s.Store.PutKernel(t.Context(), kernel("cccccccccccc", 0)))
			test(t, s)
		})
	}
}

func image(name, id string) banger.Image {
	return banger.Image{ID: id, Name: name, Size: 4096, Entries: 7, Source: "a tar", Created: epoch}
}

func kernel(id string, age time.Duration) banger.Kernel {
	return banger.Kernel{ID: id, Name: "cloud", Version: "6.1", Source: "a package", Created: epoch.Add(-age)}
}

func vm(id, name string) banger.VM {
	return banger.VM{
		ID: id, State: banger.Creating, ImageID: "aaaaaaaaaaaa", KernelID: "cccccccccccc", Created: epoch,
		Spec: banger.Spec{Name: name, Image: "debian", VCPU: 2, MemoryMiB: 512, DiskMiB: 1024, Net: banger.NetUser},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func code(t *testing.T, err error, want banger.Code) {
	t.Helper()
	if got := banger.CodeOf(err); got != want {
		t.Fatalf("got %v (code %q), want code %q", err, got, want)
	}
}

func vms(t *testing.T, s banger.Store) []banger.VM {
	t.Helper()
	list, err := s.VMs(t.Context())
	must(t, err)
	return list
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
}

func roundTrip(t *testing.T, s Subject) {
	v := vm("111111111111", "one")
	v.State, v.Reason, v.Boots = banger.Stopped, "kernel panic: \"oops\"\n\x00é", 3
	v.Started, v.Stopped = epoch.Add(time.Second), epoch.Add(time.Minute)
	v.Exit = &banger.Exit{Kind: banger.ExitPanic, Detail: "oops", Status: -1, Time: epoch}
	v.Held = banger.Handles{VMM: banger.Process{PID: 7, StartTime: 1 << 63, BootID: "b"}, RAMFile: "/ram"}
	op := banger.Op{ID: "222222222222", VM: v.ID, Kind: banger.OpStart, Begun: []string{"vmm", "agent"}, Opened: epoch}
	must(t, s.Store.Commit(t.Context(), v, &op, false))
	check := func(st banger.Store) {
		t.Helper()
		same(t, vms(t, st), []banger.VM{v})
		got, err := st.Ops(t.Context())
		must(t, err)
		same(t, got, []banger.Op{op})
	}
	check(s.Store)
	check(s.Reopen())
}

func order(t *testing.T, s Subject) {
	for i, id := range []string{"333333333333", "111111111111", "222222222222"} {
		v := vm(id, "vm-"+id)
		v.Created = epoch.Add(-time.Duration(i) * time.Nanosecond)
		op := banger.Op{ID: id, VM: id, Kind: banger.OpCreate, Opened: v.Created.In(time.FixedZone("", 3600*i))}
		must(t, s.Store.Commit(t.Context(), v, &op, false))
	}
	var ids, opIDs []string
	for _, v := range vms(t, s.Store) {
		ids = append(ids, v.ID)
	}
	list, err := s.Store.Ops(t.Context())
	must(t, err)
	for _, op := range list {
		opIDs = append(opIDs, op.ID)
	}
	want := []string{"222222222222", "111111111111", "333333333333"}
	same(t, ids, want)
	same(t, opIDs, want)
}

func names(t *testing.T, s Subject) {
	one, two := vm("111111111111", "it"), vm("222222222222", "it")
	must(t, s.Store.Commit(t.Context(), one, nil, false))
	code(t, s.Store.Commit(t.Context(), two, nil, false), banger.CodeConflict)
	if list := vms(t, s.Store); len(list) != 1 {
		t.Fatalf("a refused VM was recorded: %+v", list)
	}
	one.State = banger.Deleting
	must(t, s.Store.Commit(t.Context(), one, nil, false))
	must(t, s.Store.Commit(t.Context(), two, nil, true))
	one.Reason = "still going"
	must(t, s.Store.Commit(t.Context(), one, nil, false))
}

func ops(t *testing.T, s Subject) {
	v := vm("111111111111", "it")
	op := banger.Op{ID: "222222222222", VM: v.ID, Kind: banger.OpCreate, Opened: epoch}
	count := func() int {
		list, err := s.Store.Ops(t.Context())
		must(t, err)
		return len(list)
	}
	must(t, s.Store.Commit(t.Context(), v, &op, false))
	other := banger.Op{ID: "333333333333", VM: v.ID, Kind: banger.OpDelete, Opened: epoch}
	must(t, s.Store.Commit(t.Context(), v, &other, false))
	if n := count(); n != 1 {
		t.Fatalf("%d operations on one VM", n)
	}
	must(t, s.Store.Commit(t.Context(), v, nil, true))
	if n := count(); n != 0 {
		t.Fatalf("%d operations after the last one ended", n)
	}
	must(t, s.Store.Commit(t.Context(), v, &op, false))
	v.State = banger.Gone
	must(t, s.Store.Commit(t.Context(), v, nil, true))
	if n := count(); n != 0 || len(vms(t, s.Store)) != 0 {
		t.Fatalf("a VM that is gone left %d operations, VMs %+v", n, vms(t, s.Store))
	}
	must(t, s.Store.Commit(t.Context(), v, nil, true)) // twice is once
}

func references(t *testing.T, s Subject) {
	v := vm("111111111111", "it")
	v.ImageID = "ffffffffffff"
	code(t, s.Store.Commit(t.Context(), v, nil, false), banger.CodeNotFound)
	v = vm("111111111111", "it")
	v.KernelID = "ffffffffffff"
	code(t, s.Store.Commit(t.Context(), v, nil, false), banger.CodeNotFound)
}

func images(t *testing.T, s Subject) {
	list := func() (out []string) {
		all, err := s.Store.Images(t.Context())
		must(t, err)
		for _, i := range all {
			out = append(out, i.Name+"="+i.ID[:1])
		}
		return out
	}
	ctx := t.Context()
	must(t, s.Store.PutImage(ctx, image("debian", "aaaaaaaaaaaa"), false)) // the same again
	code(t, s.Store.PutImage(ctx, image("debian", "bbbbbbbbbbbb"), false), banger.CodeConflict)
	must(t, s.Store.Commit(ctx, vm("111111111111", "it"), nil, false))
	must(t, s.Store.PutImage(ctx, image("debian", "bbbbbbbbbbbb"), true))
	same(t, list(), []string{"aaaaaaaaaaaa=a", "debian=b"})
	must(t, s.Store.PutImage(ctx, image("old", "aaaaaaaaaaaa"), false))
	must(t, s.Store.DeleteImage(ctx, "aaaaaaaaaaaa"))
	code(t, s.Store.DeleteImage(ctx, "old"), banger.CodeConflict)
	same(t, list(), []string{"debian=b", "old=a"})
	v := vm("111111111111", "it")
	v.State = banger.Gone
	must(t, s.Store.Commit(ctx, v, nil, false))
	must(t, s.Store.DeleteImage(ctx, "old"))
	must(t, s.Store.PutImage(ctx, image("debian", "aaaaaaaaaaaa"), true)) // b had no user: it leaves no name
	same(t, list(), []string{"debian=a"})
	code(t, s.Store.DeleteImage(ctx, "old"), banger.CodeNotFound)
}

func kernels(t *testing.T, s Subject) {
	must(t, s.Store.PutKernel(t.Context(), kernel("dddddddddddd", time.Hour)))
	again := kernel("cccccccccccc", 0)
	again.Version = "6.2"
	must(t, s.Store.PutKernel(t.Context(), again))
	store := s.Reopen()
	got, err := store.Kernels(t.Context())
	must(t, err)
	same(t, got, []banger.Kernel{kernel("dddddddddddd", time.Hour), again})
	must(t, store.Commit(t.Context(), vm("111111111111", "it"), nil, false))
	code(t, store.DeleteKernel(t.Context(), "cccccccccccc"), banger.CodeConflict)
	must(t, store.DeleteKernel(t.Context(), "dddddddddddd"))
	code(t, store.DeleteKernel(t.Context(), "dddddddddddd"), banger.CodeNotFound)
	got, err = store.Kernels(t.Context())
	must(t, err)
	same(t, got, []banger.Kernel{again})
}

func copies(t *testing.T, s Subject) {
	v := vm("111111111111", "it")
	v.Exit = &banger.Exit{Kind: banger.ExitPoweroff, Time: epoch}
	op := banger.Op{ID: "222222222222", VM: v.ID, Kind: banger.OpCreate, Begun: []string{"a", "b"}, Opened: epoch}
	must(t, s.Store.Commit(t.Context(), v, &op, false))
	v.Exit.Kind, op.Begun[0] = banger.ExitPanic, "z"
	vms(t, s.Store)[0].Exit.Kind = banger.ExitPanic
	if got := vms(t, s.Store)[0].Exit.Kind; got != banger.ExitPoweroff {
		t.Errorf("a caller changed a record's exit to %q", got)
	}
	list, err := s.Store.Ops(t.Context())
	must(t, err)
	if !slices.Equal(list[0].Begun, []string{"a", "b"}) {
		t.Errorf("a caller changed a plan to %v", list[0].Begun)
	}
}
