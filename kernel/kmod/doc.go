// Package kmod reads Linux kernel modules and makes the tables in which modprobe finds
// them, as depmod(8) does when a distribution installs a kernel.
//
// It owns the .modinfo section, a module's exported and undefined symbols, the order in
// which modules need one another, and the text and binary index files of
// /lib/modules/VERSION. It reads an fs.FS and returns bytes: it knows nothing of where
// modules come from or where the tables go. Modules aren't trusted.
package kmod
