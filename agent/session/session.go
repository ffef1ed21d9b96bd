// Package session keeps the commands the agent runs: their processes, what they
// wrote, what they are still to read, and how they ended. A session outlives
// every stream that follows it.
//
// It refuses to know how a client reaches the agent (any net.Conn will do), what
// else the agent offers, and everything about booting.
package session

import "banger/guest"

// Table holds the sessions of one agent. The zero Table works.
type Table struct {
	// Cgroup is a cgroup v2 directory of our own below which each session gets a
	// group, "/sys/fs/cgroup/banger.exec". Empty, or not to be made: sessions stay
	// in the agent's group and an out-of-memory kill looks like any other.
	Cgroup string
}

// Len returns how many sessions haven't ended.
func (t *Table) Len() int { return 0 }

// List describes all sessions, oldest first.
func (t *Table) List() []guest.Session { return nil }
