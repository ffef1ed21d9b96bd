// Package version says which build this is and which version of the API it has. It
// owns the two and their JSON form, and knows nothing of what a difference means.
package version

import (
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
)

// API is the version of the HTTP interface, and of its paths: /v2. It changes only
// when old and new would misunderstand each other, not when something is added.
const API = 2

// TooOld is the number that GET /v1/version answers. Older clients ask there and want
// a 2; any other number tells them that they are too old.
const TooOld = 3

// Version is set by the linker (-X banger/version.Version=…) in releases.
var Version string

// Daemon is the answer to GET /v2/version. Its form is the same in every API version.
type Daemon struct {
	API   int    `json:"api"`
	Build string `json:"build"`
	PID   int    `json:"pid"`
	Busy  int    `json:"busy,omitempty"` // how many changes are under way; ending the daemon would undo them
}

// Older reports whether build a is of an earlier release than b, or of an earlier
// commit as git-describe(1) counts them. It is false when that can't be told.
func Older(a, b string) bool {
	x, okX := numbers(a)
	y, okY := numbers(b)
	return okX && okY && slices.Compare(x, y) < 0
}

// numbers returns the numbers of v1.2.3 or v1.2.3-45-gabcdef: three of the release,
// and how many commits came after it.
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
