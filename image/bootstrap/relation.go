package bootstrap

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"banger/fetch/debian"
)

// relation is one package's requirement on another: deb-control(5), "Depends".
type relation struct{ name, op, version string }

// group holds alternatives: one of them is enough.
type group []relation

// nameOf matches valid names of packages (Debian policy 5.6.1).
var nameOf = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)

var relationOf = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::(any|native|amd64|all))?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([A-Za-z0-9.+~:-]+)\s*\))?$`)

// relations reads the value of a field like Depends.
func relations(field string) ([]group, error) {
	var all []group
	for part := range strings.SplitSeq(field, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		var g group
		for alternative := range strings.SplitSeq(part, "|") {
			m := relationOf.FindStringSubmatch(strings.TrimSpace(alternative))
			if m == nil {
				return nil, fmt.Errorf("relation %.100q can't be read", alternative)
			}
			g = append(g, relation{m[1], m[3], m[4]})
		}
		all = append(all, g)
	}
	return all, nil
}

// allows reports whether a version meets the relation's bound, if it has one.
func (r relation) allows(version string) bool {
	c := debian.Compare(version, r.version)
	switch r.op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

func (r relation) String() string {
	if r.op == "" {
		return r.name
	}
	return fmt.Sprintf("%s (%s %s)", r.name, r.op, r.version)
}

func (g group) String() string {
	var s []string
	for _, r := range g {
		s = append(s, r.String())
	}
	return strings.Join(s, " | ")
}

// meets reports whether a package fulfils a relation, by its name or by what it
// provides. What is provided without a version fulfils no bound on the version.
func (c *candidate) meets(r relation) bool {
	if c.Name == r.name {
		return r.allows(c.Version)
	}
	return slices.ContainsFunc(c.provides, func(p relation) bool {
		return p.name == r.name && (r.op == "" || p.version != "" && r.allows(p.version))
	})
}
