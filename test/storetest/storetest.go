// Package storetest is the contract of banger.Store as a test suite.
//
// It knows nothing of what a store is made of: functions that make an empty one and,
// if that is possible, open it again are passed in.
package storetest

import (
	"slices"
	"strings"
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
		"a VM takes its plan along":      plans,
		"a plan of several subjects":     several,
		"a new VM needs its image":       references,
		"images keep names and users":    images,
		"names that look like ids":       idNames,
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
	plan := banger.Plan{ID: "222222222222", Subjects: []string{v.ID}, Kind: banger.PlanRestart, Direction: banger.Again, Begun: []string{"vmm", "agent"}, Opened: epoch,
		Tries: 2, Timeout: time.Minute, Force: true, Cold: true, Reason: "so"}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &plan, false))
	check := func(st banger.Store) {
		t.Helper()
		same(t, vms(t, st), []banger.VM{v})
		got, err := st.Plans(t.Context())
		must(t, err)
		same(t, got, []banger.Plan{plan})
	}
	check(s.Store)
	check(s.Reopen())
}

func order(t *testing.T, s Subject) {
	for i, id := range []string{"333333333333", "111111111111", "222222222222"} {
		v := vm(id, "vm-"+id)
		v.Created = epoch.Add(-time.Duration(i) * time.Nanosecond)
		plan := banger.Plan{ID: id, Subjects: []string{id}, Kind: banger.PlanCreate, Opened: v.Created.In(time.FixedZone("", 3600*i))}
		must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &plan, false))
	}
	var ids, planIDs []string
	for _, v := range vms(t, s.Store) {
		ids = append(ids, v.ID)
	}
	list, err := s.Store.Plans(t.Context())
	must(t, err)
	for _, plan := range list {
		planIDs = append(planIDs, plan.ID)
	}
	want := []string{"222222222222", "111111111111", "333333333333"}
	same(t, ids, want)
	same(t, planIDs, want)
}

func names(t *testing.T, s Subject) {
	one, two := vm("111111111111", "it"), vm("222222222222", "it")
	must(t, s.Store.Commit(t.Context(), []banger.VM{one}, nil, false))
	code(t, s.Store.Commit(t.Context(), []banger.VM{two}, nil, false), banger.CodeConflict)
	if list := vms(t, s.Store); len(list) != 1 {
		t.Fatalf("a refused VM was recorded: %+v", list)
	}
	one.State = banger.Deleting
	must(t, s.Store.Commit(t.Context(), []banger.VM{one}, nil, false))
	must(t, s.Store.Commit(t.Context(), []banger.VM{two}, nil, true))
	one.Reason = "still going"
	must(t, s.Store.Commit(t.Context(), []banger.VM{one}, nil, false))
}

func plans(t *testing.T, s Subject) {
	v := vm("111111111111", "it")
	plan := banger.Plan{ID: "222222222222", Subjects: []string{v.ID}, Kind: banger.PlanCreate, Opened: epoch}
	count := func() int {
		list, err := s.Store.Plans(t.Context())
		must(t, err)
		return len(list)
	}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &plan, false))
	other := banger.Plan{ID: "333333333333", Subjects: []string{v.ID}, Kind: banger.PlanDelete, Opened: epoch}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &other, false))
	if n := count(); n != 1 {
		t.Fatalf("%d plans on one VM", n)
	}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, nil, true))
	if n := count(); n != 0 {
		t.Fatalf("%d plans after the last one ended", n)
	}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &plan, false))
	v.State = banger.Gone
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, nil, true))
	if n := count(); n != 0 || len(vms(t, s.Store)) != 0 {
		t.Fatalf("a VM that is gone left %d plans, VMs %+v", n, vms(t, s.Store))
	}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, nil, true)) // twice is once
}

// A plan of several subjects comes, changes and goes as a whole, and only with
// all that is committed beside it.
func several(t *testing.T, s Subject) {
	source, child := vm("111111111111", "source"), vm("222222222222", "child")
	both := banger.Plan{ID: "333333333333", Subjects: []string{source.ID, child.ID}, Kind: "fork", Direction: banger.Back, Begun: []string{}, Opened: epoch}
	is := func(want ...banger.Plan) {
		t.Helper()
		got, err := s.Store.Plans(t.Context())
		must(t, err)
		if len(got) != len(want) || len(want) > 0 && !cmp.Equal(got, want) {
			t.Fatalf("plans: %+v, want %+v", got, want)
		}
	}
	stranger := vm("444444444444", "source")
	code(t, s.Store.Commit(t.Context(), []banger.VM{source, stranger}, &both, false), banger.CodeConflict)
	if is(); len(vms(t, s.Store)) != 0 {
		t.Fatal("half of a refused commit was recorded")
	}
	must(t, s.Store.Commit(t.Context(), []banger.VM{source, child}, &both, false))
	is(both)
	both.Begun = append(both.Begun, "disk")
	must(t, s.Store.Commit(t.Context(), []banger.VM{source, child}, &both, true))
	is(both)
	child.State = banger.Gone
	must(t, s.Store.Commit(t.Context(), []banger.VM{source, child}, nil, true))
	is()
	same(t, vms(t, s.Store), []banger.VM{source})
}

func references(t *testing.T, s Subject) {
	v := vm("111111111111", "it")
	v.ImageID = "ffffffffffff"
	code(t, s.Store.Commit(t.Context(), []banger.VM{v}, nil, false), banger.CodeNotFound)
	v = vm("111111111111", "it")
	v.KernelID = "ffffffffffff"
	code(t, s.Store.Commit(t.Context(), []banger.VM{v}, nil, false), banger.CodeNotFound)
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
	must(t, s.Store.Commit(ctx, []banger.VM{vm("111111111111", "it")}, nil, false))
	must(t, s.Store.PutImage(ctx, image("debian", "bbbbbbbbbbbb"), true))
	same(t, list(), []string{"aaaaaaaaaaaa=a", "debian=b"})
	must(t, s.Store.PutImage(ctx, image("old", "aaaaaaaaaaaa"), false))
	must(t, s.Store.DeleteImage(ctx, "aaaaaaaaaaaa"))
	code(t, s.Store.DeleteImage(ctx, "old"), banger.CodeConflict)
	same(t, list(), []string{"debian=b", "old=a"})
	v := vm("111111111111", "it")
	v.State = banger.Gone
	must(t, s.Store.Commit(ctx, []banger.VM{v}, nil, false))
	must(t, s.Store.DeleteImage(ctx, "old"))
	must(t, s.Store.PutImage(ctx, image("debian", "aaaaaaaaaaaa"), true)) // b had no user: it leaves no name
	same(t, list(), []string{"debian=a"})
	code(t, s.Store.DeleteImage(ctx, "old"), banger.CodeNotFound)
}

// idNames: an image that loses its last name is named by its id, and no other
// image's name gives way to that.
func idNames(t *testing.T, s Subject) {
	const a, b, c, d = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd"
	names := func() map[string][]string { // by image
		all, err := s.Store.Images(t.Context())
		must(t, err)
		out := map[string][]string{}
		for _, i := range all {
			out[i.ID] = append(out[i.ID], i.Name)
		}
		return out
	}
	ctx := t.Context()
	must(t, s.Store.Commit(ctx, []banger.VM{vm("111111111111", "it")}, nil, false)) // of a
	must(t, s.Store.PutImage(ctx, image(a, b), false))                              // b is named as a's id
	must(t, s.Store.PutImage(ctx, image("debian", c), true))
	got := names()
	if len(got[a]) != 1 || len(got[a][0]) < len(a) || got[a][0][:len(a)] != a {
		t.Errorf("an image in use is named %q, want by its id", got[a])
	}
	same(t, [][]string{got[b], got[c]}, [][]string{{a}, {"debian"}})

	v := vm("222222222222", "other")
	v.ImageID = b
	must(t, s.Store.Commit(ctx, []banger.VM{v}, nil, false))
	must(t, s.Store.PutImage(ctx, image(a, c), true)) // takes b's last name
	must(t, s.Store.PutImage(ctx, image(names()[a][0], d), true))
	must(t, s.Store.PutImage(ctx, image(names()[b][0], d), true)) // its own id
	got = names()
	if len(got[a]) != 1 || len(got[b]) != 1 || len(got[c]) != 2 || len(got[d]) != 2 {
		t.Errorf("images in use lost their records: %q", got)
	}
	code(t, s.Store.DeleteImage(ctx, got[a][0]), banger.CodeConflict)

	long := strings.Repeat("e", 64)
	v = vm("333333333333", "third")
	v.ImageID = long
	must(t, s.Store.PutImage(ctx, image("third", long), false))
	must(t, s.Store.Commit(ctx, []banger.VM{v}, nil, false))
	must(t, s.Store.PutImage(ctx, image("third", c), true))
	same(t, names()[long], []string{"eeeeeeeeeeee"})
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
	must(t, store.Commit(t.Context(), []banger.VM{vm("111111111111", "it")}, nil, false))
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
	plan := banger.Plan{ID: "222222222222", Subjects: []string{v.ID}, Kind: banger.PlanCreate, Begun: []string{"a", "b"}, Opened: epoch}
	must(t, s.Store.Commit(t.Context(), []banger.VM{v}, &plan, false))
	v.Exit.Kind, plan.Begun[0] = banger.ExitPanic, "z"
	vms(t, s.Store)[0].Exit.Kind = banger.ExitPanic
	if got := vms(t, s.Store)[0].Exit.Kind; got != banger.ExitPoweroff {
		t.Errorf("a caller changed a record's exit to %q", got)
	}
	list, err := s.Store.Plans(t.Context())
	must(t, err)
	if !slices.Equal(list[0].Begun, []string{"a", "b"}) {
		t.Errorf("a caller changed a plan to %v", list[0].Begun)
	}
}
