// Package version says which build this is and which API it speaks. It owns
// the two numbers and their wire form; it refuses to know who asks, and what
// follows from a difference.
package version

import (
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
)

// API is the version of the HTTP interface between CLI and daemon. It changes
// when one side would misunderstand the other, not when something is added.
const API = 2

// Version is set by the linker (-X banger/version.Version=…) in releases.
var Version string

// Daemon is what a daemon says of itself; the answer to GET /v1/version, whose
// form is the same in every API version.
type Daemon struct {
	API   int    `json:"api"`
	Build string `json:"build"`
	PID   int    `json:"pid"`
	Busy  int    `json:"busy,omitempty"` // changes under way, which its end would undo
}

// Older reports whether one build is a release before another's, or a commit
// before it as git-describe(1) counts them. Of builds that don't say, it isn't.
func Older(a, b string) bool {
	x, okX := numbers(a)
	y, okY := numbers(b)
	return okX && okY && slices.Compare(x, y) < 0
}

// numbers are those of v1.2.3 or v1.2.3-45-gabcdef: of the release, then of the
// commits since.
func numbers(build string) ([]int, bool) {
	m := release.FindStringSubmatch(build)
	if m == nil {
		return nil, false
	}
	n := make([]int, len(m)-1)
	for i, digits := range m[1:] {
		n[i], _ = strconv.Atoi(digits) // digits or nothing, by the pattern
	}
	return n, true
}

var release = regexp.MustCompile(`^v(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:-(\d{1,6})-g[0-9a-f]+)?(?:-dirty)?$`)

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
