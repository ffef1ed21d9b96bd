// Package group gives each command a cgroup of its own, by which the agent learns that the
// command was killed for want of memory. It owns the groups below one directory, and knows
// nothing of commands.
package group

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Groups gives each running session one cgroup v2 leaf, and reuses it when it is empty:
// making one takes longer than starting a program. Sessions run without if the kernel
// refuses.
type Groups struct {
	mu   sync.Mutex
	made int
	free []*Group
}

// Group is one leaf. kills is memory.events' oom_kill as last seen.
type Group struct {
	path  string
	dir   *os.File
	kills int
}

// maxFreeCgroups bounds the empty groups kept for reuse.
const maxFreeCgroups = 4

// Take returns an empty group below parent, or nil.
func (g *Groups) Take(parent string) *Group {
	if parent == "" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.free); n > 0 {
		c := g.free[n-1]
		g.free = g.free[:n-1]
		c.OOMKilled() // discard what is of the session before
		return c
	}
	if g.made == 0 {
		// Without the memory controller there are no OOM figures, nothing else is missing.
		_ = os.WriteFile(filepath.Dir(parent)+"/cgroup.subtree_control", []byte("+memory"), 0)
		if os.Mkdir(parent, 0o755) == nil {
			_ = os.WriteFile(parent+"/cgroup.subtree_control", []byte("+memory"), 0)
		}
	}
	for {
		g.made++
		c := &Group{path: parent + "/" + strconv.Itoa(g.made)}
		err := os.Mkdir(c.path, 0o755)
		if os.IsExist(err) {
			continue // left by an agent before us
		}
		if err != nil {
			return nil
		}
		if c.dir, err = os.Open(c.path); err != nil {
			_ = os.Remove(c.path)
			return nil
		}
		return c
	}
}

// Give takes a session's group back. If processes that the session left are in it, it
// isn't reused.
func (g *Groups) Give(c *Group) {
	if c == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if counter(c.path+"/cgroup.events", "populated") == 0 && len(g.free) < maxFreeCgroups {
		g.free = append(g.free, c)
		return
	}
	c.Drop()
}

// Drop removes a group that isn't reused, if it is empty.
func (c *Group) Drop() {
	c.dir.Close()
	_ = os.Remove(c.path)
}

// FD is the group's directory, for clone(2).
func (c *Group) FD() int { return int(c.dir.Fd()) }

// OOMKilled reports whether the OOM killer killed in the group since the last call.
func (c *Group) OOMKilled() bool {
	if c == nil {
		return false
	}
	before := c.kills
	c.kills = counter(c.path+"/memory.events", "oom_kill")
	return c.kills > before
}

// counter returns one value of a flat keyed cgroup file, 0 when it isn't there.
func counter(file, key string) int {
	raw, _ := os.ReadFile(file)
	for line := range bytes.Lines(raw) {
		if k, v, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); ok && string(k) == key {
			n, _ := strconv.Atoi(string(v))
			return n
		}
	}
	return 0
}
