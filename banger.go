// Package banger holds the nouns of the system and the rules they obey: a VM
// and its states, images, kernels, disks, what a running VM holds on its host,
// and the errors a user may see. Beside each noun stands the interface of the
// drivers that do its work.
//
// It knows nothing of how the work is done: no operating system, no network
// beyond the net.Conn type, no database. Times and identifiers are passed in.
// Memory and disk sizes are in MiB where a name says so, else in bytes.
package banger
