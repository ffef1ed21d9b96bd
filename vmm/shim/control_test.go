package shim_test

import (
	"testing"

	"banger/guest"
	"banger/guest/link"
	"banger/vmm/shim"
)

// Who keeps the VM has a place when users have taken all of theirs.
func TestControlStreamsHavePlaces(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	take(t, cfg, link.MaxStreams)
	if c, err := shim.Dial(t.Context(), cfg.Dir); err == nil {
		_ = c.Close()
		t.Fatal("there is room for one more")
	}
	c, err := shim.Dial(guest.WithControl(t.Context()), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
