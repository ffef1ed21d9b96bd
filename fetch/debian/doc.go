// Package debian reads the Debian archive: its chain of trust, control files, versions
// and package files (.deb).
//
// The chain of trust: a key that we carry signs InRelease, which has the hash of
// Packages, which has the hash of the .deb. Each is checked before it is parsed.
// Sizes are in bytes, dates in UTC. Errors that a user may see are banger.Error.
//
// It knows nothing of what packages are used for, and runs no code of theirs.
package debian
