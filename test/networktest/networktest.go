// Package networktest is the contract of banger.Networks as a test suite, to be run
// on each driver and on the fake. It knows nothing of how a driver fulfils it.
package networktest

import (
	"slices"
	"testing"

	"banger"
)

// Bed is a driver and the host it works on, both fresh.
type Bed struct {
	Networks banger.Networks
	// Links lists the host's links that belong to VMs or look so.
	Links func() []string
	// Plant makes a stranger's link of this name.
	Plant func(name string)
}

const (
	first  = "0123456789ab"
	second = "0123456789ac"
)

// Run holds a driver to the contract.
func Run(t *testing.T, open func(t *testing.T) Bed) {
	for name, f := range map[string]func(*testing.T, Bed){
		"Allocate":  testAllocate,
		"Set":       testSet,
		"CleanUp":   testCleanUp,
		"Strangers": testStrangers,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

func link(t *testing.T, b Bed, id string, taken ...banger.NetConfig) banger.Link {
	t.Helper()
	side, err := b.Networks.Allocate(taken)
	if err != nil {
		t.Fatal(err)
	}
	side.MAC = "02:" + id[2:4] + ":" + id[4:6] + ":" + id[6:8] + ":" + id[8:10] + ":" + id[10:12]
	return banger.Link{VM: id, Net: side}
}

func set(t *testing.T, b Bed, l banger.Link) banger.Handles {
	t.Helper()
	h, err := b.Networks.Set(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if h.Tap == "" || h != h.Of(banger.NetHandles) {
		t.Errorf("Set returned %+v", h)
	}
	return h
}

func testAllocate(t *testing.T, b Bed) {
	var taken []banger.NetConfig
	for range 20 {
		l := link(t, b, first, taken...)
		if l.Net.Mode != banger.NetBridge || l.Net.Address == "" || l.Net.Gateway == "" {
			t.Fatalf("got %+v", l.Net)
		}
		for _, other := range taken {
			if other.Address == l.Net.Address {
				t.Fatalf("%s was handed out twice", l.Net.Address)
			}
		}
		taken = append(taken, l.Net)
	}
	if got := link(t, b, first, slices.Delete(slices.Clone(taken), 7, 8)...); got.Net.Address != taken[7].Address {
		t.Errorf("the free address %s was passed over for %s", taken[7].Address, got.Net.Address)
	}
}

func testSet(t *testing.T, b Bed) {
	l := link(t, b, first)
	h := set(t, b, l)
	if again := set(t, b, l); again != h {
		t.Errorf("done again: %+v, not %+v", again, h)
	}
	if got := b.Links(); !slices.Equal(got, []string{h.Tap}) {
		t.Errorf("there are %q", got)
	}
}

func testCleanUp(t *testing.T, b Bed) {
	for _, held := range []banger.Handles{{}, {Tap: "eth0"}} {
		if left, err := b.Networks.CleanUp(t.Context(), first, held); err != nil || !left.Empty() {
			t.Errorf("of nothing: %+v, %v", left, err)
		}
	}
	l := link(t, b, first)
	one, two := set(t, b, l), set(t, b, link(t, b, second, l.Net))
	// By the id alone, as after a loss of all records.
	if left, err := b.Networks.CleanUp(t.Context(), first, banger.Handles{}); err != nil || !left.Empty() {
		t.Errorf("%+v, %v", left, err)
	}
	if got := b.Links(); !slices.Equal(got, []string{two.Tap}) {
		t.Errorf("there are %q", got)
	}
	if left, err := b.Networks.CleanUp(t.Context(), first, one); err != nil || !left.Empty() {
		t.Errorf("done again: %+v, %v", left, err)
	}
	if again := set(t, b, l); again != one {
		t.Errorf("made anew: %+v", again)
	}
}

func testStrangers(t *testing.T, b Bed) {
	h := set(t, b, link(t, b, first))
	if _, err := b.Networks.CleanUp(t.Context(), first, h); err != nil {
		t.Fatal(err)
	}
	b.Plant(h.Tap)
	if left, err := b.Networks.CleanUp(t.Context(), first, h); err != nil || !left.Empty() {
		t.Errorf("ours is gone, a stranger's is there: %+v, %v", left, err)
	}
	if _, err := b.Networks.Set(t.Context(), link(t, b, first)); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("Set over a stranger's link: %v", err)
	}
	if got := b.Links(); !slices.Equal(got, []string{h.Tap}) {
		t.Errorf("there are %q", got)
	}
}
