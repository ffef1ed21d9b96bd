// Package bootstrap makes an image of a distribution's packages, on any host and without
// other programs. It resolves a list against the signed index of the Debian archive,
// fetches, checks and unpacks the packages into one tree with dpkg's records, and
// starts a microVM of that tree, in which dpkg configures the packages. The VM's root
// becomes the image.
//
// It owns Debian's package relations and versions, the state of dpkg's database
// (/var/lib/dpkg, dpkg(1) and deb-control(5)) of an unpacked package, and the
// commands run in the guest. No code of a package runs on the host. Sizes are in bytes;
// errors that a user may see are banger.Error.
//
// It knows nothing of how a VM is made, how an image is kept, or how a mirror's answers
// are checked: those services are passed in.
package bootstrap
