// Package kmod reads Linux kernel modules and writes the tables that modprobe
// and the kernel's module autoloading look them up in: what depmod(8) does when
// a distribution installs a kernel.
//
// It owns the .modinfo section, a module's exported and undefined symbols, the
// order in which modules need one another, and the text and binary index files
// of /lib/modules/VERSION. It refuses to know where a tree of modules comes
// from, how it was compressed, and where the tables go: it reads an fs.FS and
// returns bytes.
package kmod
