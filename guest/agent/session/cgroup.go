package session

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// cgroups gives each running session one cgroup v2 leaf, and reuses it when it is empty:
// making one takes longer than starting a program. Sessions run without if the kernel
// refuses.
type cgroups struct {
	mu   sync.Mutex
	made int
	free []*cgroup
}

// cgroup is one leaf. kills is memory.events' oom_kill as last seen.
type cgroup struct {
	path  string
	dir   *os.File
	kills int
}

// maxFreeCgroups bounds the empty groups kept for reuse.
const maxFreeCgroups = 4

// take returns an empty group below parent, or nil.
func (g *cgroups) take(parent string) *cgroup {
	if parent == "" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.free); n > 0 {
		c := g.free[n-1]
		g.free = g.free[:n-1]
		c.oomKilled() // discard what is of the session before
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
		c := &cgroup{path: parent + "/" + strconv.Itoa(g.made)}
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

// Prepare makes the group of the first session in advance: that takes an emulated guest
// longer than starting a program.
func (t *Table) Prepare() { t.groups.give(t.groups.take(t.Cgroup)) }

// give takes a session's group back. If processes that the session left are in it, it
// isn't reused.
func (g *cgroups) give(c *cgroup) {
	if c == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if counter(c.path+"/cgroup.events", "populated") == 0 && len(g.free) < maxFreeCgroups {
		g.free = append(g.free, c)
		return
	}
	c.drop()
}

func (c *cgroup) drop() {
	c.dir.Close()
	_ = os.Remove(c.path)
}

// oomKilled reports whether the OOM killer killed in the group since the last call.
func (c *cgroup) oomKilled() bool {
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
