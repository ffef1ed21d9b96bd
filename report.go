package banger

import "slices"

// Report is what was found on this host: whether VMs can be made here, and with which
// drivers.
type Report struct {
	Ready       bool              `json:"ready"` // nothing failed
	Checks      []Check           `json:"checks"`
	Drivers     []Choice          `json:"drivers"`
	Hypervisors []KnownHypervisor `json:"hypervisors"`
	// Records says that a daemon has run here before: its database is there.
	Records bool `json:"records"`
	// System describes the host's software and processor, a line each.
	System string `json:"system,omitempty"`
}

// Check is one thing that was looked at: what was found, what that means, and how to
// mend it.
type Check struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	Found string `json:"found"`           // the observed fact
	Means string `json:"means,omitempty"` // what follows from it
	Mend  string `json:"mend,omitempty"`  // the command, or what to do
}

// Level is how much a Check matters.
type Level string

// The levels.
const (
	LevelOK   Level = "ok"
	LevelNote Level = "note" // to know, nothing to do
	LevelWarn Level = "warn" // works, but not as well as it could
	LevelFail Level = "fail" // VMs can't be made
)

// Choice is a driver that new VMs get, and why.
type Choice struct {
	For  string `json:"for"` // "hypervisor", "disk", "network"
	Name string `json:"name"`
	Why  string `json:"why"`
}

// KnownHypervisor is a hypervisor that banger supports: where it is on this host, or
// why it can't be used here.
type KnownHypervisor struct {
	Name    string   `json:"name"`
	Path    string   `json:"path,omitempty"`
	Version string   `json:"version,omitempty"`
	Missing string   `json:"missing,omitempty"` // why it can't be used
	Default bool     `json:"default"`
	Why     string   `json:"why,omitempty"`    // why it is the default
	Tested  string   `json:"tested,omitempty"` // the version that banger was tested with last
	Holes   []string `json:"holes,omitempty"`  // security holes known in this version, a sentence each
}

// Add appends checks and judges anew whether the host is ready.
func (r *Report) Add(checks ...Check) {
	r.Checks = append(r.Checks, checks...)
	r.Ready = !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Level == LevelFail })
}
