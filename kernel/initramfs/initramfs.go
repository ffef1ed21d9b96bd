// Package initramfs writes the initial RAM file system that a guest's kernel
// unpacks: the agent as /init and the kernel modules that every guest needs. The same
// input always gives the same bytes, so that a digest identifies it.
//
// It knows nothing of where agent and modules come from, which modules a kernel needs,
// or what /init does with them.
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

// maxModules bounds one list: the numbers in file names have two digits.
const maxModules = 100

// Build writes an initramfs to w. The guest loads the early modules before its freeze
// point and the late ones after it, in the order given; the first late one must be the
// disks' driver. The initramfs isn't compressed: in an emulated guest, decompressing
// takes longer than reading more bytes.
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

// pageSize, in bytes: an initramfs is filled up with zeros to a multiple of it, which
// the kernel accepts. QEMU's microvm puts the initramfs at the start of a page, as high
// in memory as possible, and the firmware puts ACPI tables at the end of the last page.
// Where the initramfs reaches into that, guests of QEMU 10 find a part of it in the place
// of a table, and hang before their first message.
const pageSize = 4096

func pad(buf *bytes.Buffer, size int) {
	buf.Write(make([]byte, -buf.Len()&(size-1)))
}
