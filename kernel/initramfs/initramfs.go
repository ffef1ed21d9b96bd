// Package initramfs writes the initial RAM file system that a guest's kernel
// unpacks: the agent as /init and the kernel modules every guest needs. The
// same input always gives the same bytes, so that a digest of them can stand
// for them.
//
// It refuses to know where agent and modules come from, which modules a kernel
// needs, and what /init does with them.
package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Module is one kernel module, uncompressed (a .ko).
type Module struct {
	Name string // without .ko
	Data []byte
}

// maxModules bounds one list: its numbering has two digits.
const maxModules = 100

// Build writes an uncompressed initramfs to w. The early modules are loaded, in
// the order given, before the guest's freeze point, the late ones after it; the
// first late one must be the disks' driver. Nothing is compressed: unpacking
// would cost an emulated guest more than reading does.
func Build(w io.Writer, agent []byte, early, late []Module) error {
	var files []entry
	for _, dir := range []string{"dev", "lib", "lib/banger", "lib/banger/early", "lib/banger/late", "proc", "run", "sys", "sysroot"} {
		files = append(files, entry{name: dir, mode: modeDir | 0o755})
	}
	// The kernel opens /dev/console for us before devtmpfs is mounted.
	files = append(files, entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	files = append(files, entry{name: "init", mode: modeFile | 0o755, data: agent})
	for dir, list := range map[string][]Module{"early": early, "late": late} {
		if len(list) > maxModules {
			return fmt.Errorf("%d %s modules, at most %d", len(list), dir, maxModules)
		}
		for _, m := range list {
			if m.Name == "" || strings.ContainsAny(m.Name, "/\x00") {
				return fmt.Errorf("module name %q", m.Name)
			}
		}
	}
	files = append(files, modules("early", early)...)
	files = append(files, modules("late", late)...)

	var buf bytes.Buffer
	for i, f := range files {
		f.write(&buf, i+1)
	}
	entry{name: "TRAILER!!!"}.write(&buf, 0)
	pad(&buf, pageSize)
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

func modules(dir string, list []Module) []entry {
	var files []entry
	for i, m := range list {
		files = append(files, entry{
			name: fmt.Sprintf("lib/banger/%s/%02d-%s.ko", dir, i, m.Name),
			mode: modeFile | 0o644, data: m.Data,
		})
	}
	return files
}

// File types of mode, as in cpio(5) and inode(7).
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// entry is one member of a "newc" archive,
// Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32
	data         []byte
}

func (e entry) write(buf *bytes.Buffer, ino int) {
	// magic; ino mode uid gid nlink mtime size; dev of the archive; rdev; length of the name; check
	fmt.Fprintf(buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		ino, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
	buf.WriteString(e.name)
	buf.WriteByte(0)
	pad(buf, 4)
	buf.Write(e.data)
	pad(buf, 4)
}

// pageSize divides an initramfs's size, by zeros, which the kernel takes between
// archives and after them. QEMU's microvm puts an initramfs as high in the guest's
// memory as a page's start lets it be, and its firmware the ACPI tables into the end
// of the last page: where the initramfs reaches into that, QEMU 10 guests find a part
// of it in a table's place and hang before their first line.
const pageSize = 4096

func pad(buf *bytes.Buffer, size int) {
	buf.Write(make([]byte, -buf.Len()&(size-1)))
}
