// Package debian fetches Linux kernels from the Debian archive and makes them
// ready to boot: an uncompressed vmlinux, a filesystem image of the modules,
// and an initramfs. It implements banger.Kernels.
//
// It owns the mirror, the archive's chain of trust (keys we carry sign
// InRelease, which has the hash of Packages, which has the hash of the .deb;
// nothing is parsed before it was checked, but the signed text itself), the
// formats a kernel package is made of, and the directory the kernels are kept
// in. Nothing of a package is run.
//
// It refuses to know how a filesystem image or an initramfs is written, both
// are functions it is given, and which kernel a VM uses.
package debian
