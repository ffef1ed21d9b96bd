package engine_test

import (
	"strings"
	"testing"

	"banger"
	"banger/test/fake"
)

// What went into a guest is written down, outlives the daemon, and is bounded.
func TestRepository(t *testing.T) {
	w := newWorld(t)
	d := w.open(nil)
	d.make(t, banger.Spec{Name: "it"})
	good := banger.Repository{Path: "/src/it", Guest: "/root/it", Format: "sha1", Base: strings.Repeat("ab", 20), Branch: "refs/heads/main"}
	vm, err := d.SetVM(t.Context(), "it", banger.Change{Repository: &good, Workspace: "/root/it/sub"})
	good.Unseen = true // it runs
	if err != nil || vm.Repository == nil || *vm.Repository != good || vm.Spec.Workspace != "/root/it/sub" || vm.NeedsRestart {
		t.Errorf("%+v, %v", vm, err)
	}
	for what, change := range map[string]func(r *banger.Repository){
		"a path that isn't absolute": func(r *banger.Repository) { r.Path = "it" },
		"a path with a zero":         func(r *banger.Repository) { r.Guest = "/a\x00b" },
		"a base that is no object":   func(r *banger.Repository) { r.Base = "HEAD" },
		"a tree that is none":        func(r *banger.Repository) { r.Taken = strings.Repeat("g", 40) },
		"another format":             func(r *banger.Repository) { r.Format = "md5" },
	} {
		bad := good
		change(&bad)
		_, err := d.SetVM(t.Context(), "it", banger.Change{Repository: &bad})
		if banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	d.kill()
	d = w.open(nil)
	defer d.kill()
	// The guests here have no such tool: nobody knows what work there is, and the stop goes on.
	if vm, err = d.StopVM(t.Context(), "it", banger.StopOptions{}); err != nil || vm.Repository == nil || *vm.Repository != good {
		t.Errorf("%+v, %v", vm, err)
	}
	// It was seen, and then a guest ran again, if only in a start that failed.
	seen := good
	seen.Unseen = false
	agent, memory := w.host.Agent, d.MemoryMiB
	for what, c := range map[string]struct {
		fail func()
		ran  bool
	}{
		"no memory": {func() { d.MemoryMiB = func() int { return 64 } }, false},
		"a guest's end": {func() {
			w.host.Agent = func(g *fake.Guest) { w.host.EndGuest(g.ID(), banger.Exit{Kind: banger.ExitReboot}) }
		}, true},
	} {
		if vm, err = d.SetVM(t.Context(), "it", banger.Change{Repository: &seen}); err != nil || vm.Repository.Unseen {
			t.Errorf("%+v, %v", vm, err)
		}
		c.fail()
		if _, err := d.StartVM(t.Context(), "it", banger.StartOptions{}, nil); err == nil {
			t.Errorf("%s: it started", what)
		}
		w.host.Agent, d.MemoryMiB = agent, memory
		if vm, err := d.VM(t.Context(), "it"); err != nil || vm.State != banger.Stopped || vm.Repository.Unseen != c.ran {
			t.Errorf("after %s: %s, %+v, %v", what, vm.State, vm.Repository, err)
		}
	}
	if vm, err = d.SetVM(t.Context(), "it", banger.Change{Repository: &seen}); err != nil || vm.Repository.Unseen {
		t.Errorf("%+v, %v", vm, err)
	}
	if vm, err = d.StartVM(t.Context(), "it", banger.StartOptions{}, nil); err != nil || !vm.Repository.Unseen {
		t.Errorf("%+v, %v", vm, err)
	}
	if vm, err = d.StopVM(t.Context(), "it", banger.StopOptions{Force: true}); err != nil || !vm.Repository.Unseen {
		t.Errorf("killed without a look: %+v, %v", vm, err)
	}
}

// Work is nowhere else unless it went in, or was taken out.
func TestLoose(t *testing.T) {
	r := banger.Repository{Base: "b", Sent: "t", TakenHead: "h", Taken: "u"}
	for given, want := range map[[3]string]string{
		{"b", "b", "t"}: "", {"h", "w", "u"}: "", {"b", "w", "x"}: "changes that aren't committed",
		{"c", "c", "t"}: "commits", {"c", "w", "x"}: "commits, and changes that aren't committed",
	} {
		if got := r.Loose(given[0], given[1], given[2], 0); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
	if got := r.Loose("b", "b", "t", 1); got != "commits on other branches, or in a stash" {
		t.Errorf("another branch: %q", got)
	}
}
