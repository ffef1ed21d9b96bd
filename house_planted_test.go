package banger_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// The test of the test: each planted mistake is found, and the house without it
// has none of its kind.
func TestHouseFindsWhatIsPlanted(t *testing.T) {
	imports := func(deps ...string) string {
		return "package x\n\nimport (\n\t_ \"" + strings.Join(deps, "\"\n\t_ \"") + "\"\n)\n"
	}
	plant := func(path, text string) func(*house) {
		return func(h *house) {
			s, err := parse(path, text)
			if err != nil {
				t.Fatal(err)
			}
			h.files = append(slices.Clone(h.files), s)
		}
	}
	for name, c := range map[string]struct {
		plant func(*house)
		check func(house) []string
		want  string
	}{
		"a driver imports the engine":      {plant("vmm/qemu/planted.go", imports("banger/daemon/engine")), house.arrows, "vmm/qemu may not import daemon/engine"},
		"a driver imports another":         {plant("vmm/qemu/planted.go", imports("banger/vmm/firecracker")), house.arrows, "drivers know nothing of each other"},
		"the engine imports a driver":      {plant("daemon/engine/planted.go", imports("banger/disk/diskfile")), house.arrows, "daemon/engine may not import disk/diskfile"},
		"a technology imports another":     {plant("disk/diskfile/planted.go", imports("banger/image/erofs")), house.arrows, "disk/diskfile may not import image/erofs"},
		"the command line imports a side":  {plant("cli/planted.go", imports("banger/host/proc")), house.arrows, "cli may not import host/proc"},
		"the protocol imports the agent":   {plant("guest/planted.go", imports("banger/guest/agent/boot")), house.arrows, "guest may not import guest/agent/boot"},
		"the protocol imports the nouns":   {plant("guest/link/planted.go", imports("banger")), house.arrows, "guest/link may not import banger"},
		"the agent imports the host":       {plant("guest/agent/boot/planted.go", imports("banger/host/proc")), house.arrows, "guest/agent/boot may not import host/proc"},
		"the root imports a package":       {plant("planted.go", imports("banger/version")), house.arrows, "banger may not import version"},
		"the root uses the file system":    {plant("planted.go", imports("os")), house.arrows, "the root package may not import os"},
		"a program is run from elsewhere":  {plant("network/usernet/planted.go", imports("os/exec")), house.arrows, "network/usernet may not import os/exec"},
		"an exception without a reason":    {func(h *house) { h.exceptions = with(h.exceptions, arrow{"vmm/shim", "network/netns"}, "") }, house.arrows, "has no reason"},
		"an exception that nobody needs":   {func(h *house) { h.exceptions = with(h.exceptions, arrow{"cli", "vmm/qemu"}, "just in case") }, house.arrows, "used by nobody"},
		"a folder that nobody decided":     {plant("daemon/utils/planted.go", "package utils\n"), house.folders, "daemon/utils is no room of the plan"},
		"a room that is gone":              {func(h *house) { h.rooms = append(slices.Clone(h.rooms), room{"daemon/attic", "what was"}) }, house.folders, "the house has none"},
		"a function that takes the engine": {plant("daemon/engine/planted.go", dodge("Engine", fullType)), house.dodges, "instead takes a daemon/engine.Planted"},
		"a budget without a reason":        {func(h *house) { h.raised = with(h.raised, "api", raise{lines: 3000}) }, house.sizes, "raised without a reason"},
		"a budget that isn't needed":       {func(h *house) { h.raised = with(h.raised, "api", raise{3000, "to be safe"}) }, house.sizes, "don't need it"},
		"a package over its budget":        {plant("api/planted.go", "package api\n"+strings.Repeat("\n", maxPackage)), house.sizes, "package api has"},
		"a file over its budget":           {plant("cli/planted.go", "package cli\n"+strings.Repeat("\n", maxFile)), house.sizes, "cli/planted.go has"},
		"a type with too many methods":     {plant("api/planted.go", dodge("api", maxMethods+1)), house.sizes, "api.Planted has 26 methods"},
		"an exported name without comment": {plant("api/planted.go", "package api\n\nfunc Planted() {}\n"), house.comments, "exported Planted has no comment"},
	} {
		t.Run(name, func(t *testing.T) {
			h := theHouse(t)
			c.plant(&h)
			if c.want == "" {
				return
			}
			found := c.check(h)
			if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, c.want) }) {
				t.Errorf("not found: %s; found: %q", c.want, found)
			}
		})
	}
}

func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	m = maps.Clone(m)
	m[k] = v
	return m
}

// dodge is a package with a type of so many methods, and a function that takes it.
func dodge(pkg string, methods int) string {
	var b strings.Builder
	b.WriteString("package " + strings.ToLower(pkg) + "\n\n// Planted is full.\ntype Planted struct{}\n\n")
	for i := range methods {
		b.WriteString("func (p *Planted) m" + string(rune('a'+i)) + "() {}\n")
	}
	b.WriteString("func instead(p *Planted) {}\n")
	return b.String()
}
