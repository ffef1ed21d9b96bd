package version_test

import (
	"testing"

	"banger/version"
)

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"v1.2.3", "v1.2.4", true}, {"v1.2.4", "v1.2.3", false}, {"v1.2.3", "v1.2.3", false}, {"v1.9", "v1.10", true},
		{"v1.2.3", "v1.2.3-4-gabc123", true}, {"v1.2.3-4-gabc123", "v1.2.3-10-gdef456-dirty", true}, {"v1.2.3-4-gabc", "v1.2.4", true},
		{"dev", "v1.2.3", false}, {"v1.2.3", "dev", false}, {"abc123-dirty", "v1.2.3", false}, {"", "", false}, {"v1.2.3-rc1", "v1.2.4", false},
	} {
		if got := version.Older(c.a, c.b); got != c.want {
			t.Errorf("%q is older than %q: %v", c.a, c.b, got)
		}
	}
}
