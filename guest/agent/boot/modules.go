package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/guest/agent/channel"
)

// module is an opened kernel module, loadable even after the root has changed.
type module struct{ f *os.File }

// openModules opens the initramfs's early or late modules, in their order.
func openModules(when string) []module {
	dir := filepath.Join(moduleDir, when)
	names, err := os.ReadDir(dir) // sorted: the names begin with numbers
	if err != nil {
		logf("modules: %v", err)
	}
	var list []module
	kind := Channel()
	for _, n := range names {
		if !wanted(kind, n.Name()) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, n.Name()))
		if err != nil {
			logf("modules: %v", err)
			continue
		}
		list = append(list, module{f})
	}
	return list
}

// wanted reports whether a machine with this kind of channel needs a module
// ("NN-NAME.ko"): loading one takes an emulated guest a tenth of a second. With a vsock
// the hypervisor is Firecracker, which has a balloon and no serial port.
func wanted(kind, file string) bool {
	_, name, _ := strings.Cut(strings.TrimSuffix(file, ".ko"), "-")
	switch {
	case strings.Contains(name, "vsock"), name == "virtio_balloon":
		return kind == channel.Vsock
	case name == "virtio_console":
		return kind == channel.Virtio
	}
	return true
}

// load loads the module. It only logs an error: the kernel may have the module built in,
// and what needs it will give a better message.
func (m module) load() {
	defer m.f.Close()
	if err := unix.FinitModule(int(m.f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		logf("module %s: %v", filepath.Base(m.f.Name()), err)
	}
}
