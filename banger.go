// Package banger holds the nouns of the system and the rules they obey: a VM
// and its states, images, kernels, disks, what a running VM holds on its host,
// and the errors a user may see. It declares, beside each noun, the interface
// that noun needs from the world.
//
// It refuses to know how any of that is done: no operating system, no network
// beyond the net.Conn type, no database. Times and identifiers are passed in.
package banger
