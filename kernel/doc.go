// Package kernel keeps Linux kernels on this host, ready to boot: an uncompressed
// vmlinux, a filesystem image of the modules, and an initramfs with the guest's
// agent. It implements banger.Kernels with kernels of the Debian archive.
//
// It owns the choice of files that a guest needs of a kernel's package, their form, and
// the directory they are kept in. It runs no code of a package. Errors that a user may
// see are banger.Error.
//
// It knows nothing of how packages are found and trusted, or of which kernel a VM uses.
// The function that writes a filesystem image is passed in.
package kernel
