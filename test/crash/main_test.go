// Package crash_test kills, fills, cuts and falsifies whatever real microVMs stand on, and
// looks for what was lost, leaked or wrong afterwards.
package crash_test

import (
	"testing"

	"banger/test/vmtest"
)

func TestMain(m *testing.M) {
	*vmtest.Busybox = true // enough for what kills VMs, unless a flag says otherwise
	vmtest.Main(m)
}
