// Package images holds the list of packages that the default image is made of,
// and reads such lists. It refuses to know what a package is and where one
// comes from.
package images

import (
	_ "embed"
	"strings"
)

//go:embed debian-12.list
var debian string

// Default is the list to take when nobody brings one: the default image's.
func Default() []string { return Parse(debian) }

// Parse reads a list: one name a line, # begins a comment.
func Parse(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, line)
		}
	}
	return names
}
