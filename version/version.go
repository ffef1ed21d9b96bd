// Package version says which build this is and which API it speaks. It owns
// the two numbers and their wire form; it refuses to know who asks, and what
// follows from a difference.
package version

import "runtime/debug"

// API is the version of the HTTP interface between CLI and daemon. It changes
// when one side would misunderstand the other, not when something is added.
const API = 1

// Version is set by the linker (-X banger/version.Version=…) in releases.
var Version string

// Daemon is what a daemon says of itself; the answer to GET /v1/version, whose
// form is the same in every API version.
type Daemon struct {
	API   int    `json:"api"`
	Build string `json:"build"`
	PID   int    `json:"pid"`
}

// String names this build: the release, else the commit it was built from,
// else "dev".
func String() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+"
		}
	}
	if rev == "" {
		return "dev"
	}
	return "dev-" + rev + dirty
}
