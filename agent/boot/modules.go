package boot

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// module is an opened kernel module, loadable even after the root has changed.
type module struct{ f *os.File }

// openModules opens the initramfs's early or late modules, in their order.
func openModules(when string) []module {
	dir := filepath.Join(moduleDir, when)
	names, err := os.ReadDir(dir) // sorted: the names begin with their place
	if err != nil {
		logf("modules: %v", err)
	}
	var list []module
	for _, n := range names {
		f, err := os.Open(filepath.Join(dir, n.Name()))
		if err != nil {
			logf("modules: %v", err)
			continue
		}
		list = append(list, module{f})
	}
	return list
}

// load loads the module. One that can't be is only logged: whatever needs it
// will say so better, and a kernel may have it built in.
func (m module) load() {
	defer m.f.Close()
	if err := unix.FinitModule(int(m.f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		logf("module %s: %v", filepath.Base(m.f.Name()), err)
	}
}
