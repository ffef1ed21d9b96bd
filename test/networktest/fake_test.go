package networktest_test

import (
	"slices"
	"strings"
	"testing"

	"banger/test/fake"
	"banger/test/networktest"
)

// The fake host must keep the same promises as the real one.
func TestFake(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Bed {
		h := fake.NewHost()
		return networktest.Bed{
			Networks: h.Live(nil).Networks(),
			Plant: func(name string) {
				if err := h.Plant("tap", name); err != nil {
					t.Fatal(err)
				}
			},
			Links: func() []string {
				var taps []string
				for line := range strings.Lines(h.String()) {
					if f := strings.Fields(line); f[0] == "tap" {
						taps = append(taps, f[1])
					}
				}
				slices.Sort(taps)
				return taps
			},
		}
	})
}
