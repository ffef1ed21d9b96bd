// Package bootstrap makes an image of a distribution's packages, on any host and
// without a tool of it: a list is resolved against the signed index of the
// Debian archive, the packages are fetched, checked and unpacked into one tree
// with the records dpkg would have made, and a microVM of that tree runs what
// packages do when they are installed. What comes out of it becomes the image.
//
// It owns Debian's package relations and versions, the state of dpkg's database
// (/var/lib/dpkg, dpkg(1) and deb-control(5)) of an unpacked package, and the
// commands run in the guest. Nothing of a package runs on the host.
//
// It refuses to know how a VM is made, how an image is kept, and how a mirror's
// answers are checked: those are services it is given.
package bootstrap
