package bootstrap

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"banger"
	"banger/fetch/debian"
)

// candidate is the newest version of a package that the archives have.
type candidate struct {
	banger.Package
	essential         bool
	priority          string
	depends, conflict string // as in the index, parsed when needed
	provides          []relation
	conflicts         []relation // parsed on first use
	parsed            bool
}

// universe is all that can be installed.
type universe struct {
	byName    map[string]*candidate
	providers map[string][]*candidate // made by seal
}

func newUniverse() *universe { return &universe{byName: map[string]*candidate{}} }

// add adds the package of an index's stanza. Of two versions it keeps the higher one,
// from whichever archive: so updates win.
func (u *universe) add(archive string, s map[string]string) error {
	name, version := s["Package"], s["Version"]
	if !nameOf.MatchString(name) || version == "" {
		return fmt.Errorf("package %.80q, version %.80q", name, version)
	}
	if arch := s["Architecture"]; arch != "amd64" && arch != "all" {
		return nil
	}
	if old := u.byName[name]; old != nil && debian.Compare(old.Version, version) >= 0 {
		return nil
	}
	size, err := strconv.ParseInt(s["Size"], 10, 64)
	if err != nil {
		return fmt.Errorf("package %s: size %.20q", name, s["Size"])
	}
	c := &candidate{
		Package: banger.Package{
			Name: name, Version: version, Arch: s["Architecture"], Archive: archive,
			Path: s["Filename"], SHA256: strings.ToLower(s["SHA256"]), Size: size,
		},
		essential: s["Essential"] == "yes", priority: s["Priority"],
		depends: s["Pre-Depends"] + "," + s["Depends"], conflict: s["Conflicts"] + "," + s["Breaks"],
	}
	provides, err := relations(s["Provides"])
	if err != nil {
		return fmt.Errorf("package %s: %w", name, err)
	}
	for _, g := range provides {
		c.provides = append(c.provides, g[0])
	}
	u.byName[name] = c
	return nil
}

func (u *universe) seal() {
	u.providers = map[string][]*candidate{}
	for _, c := range u.byName {
		for _, p := range c.provides {
			u.providers[p.name] = append(u.providers[p.name], c)
		}
	}
	for _, list := range u.providers {
		slices.SortFunc(list, func(a, b *candidate) int {
			return cmp.Or(rank(a.priority)-rank(b.priority), strings.Compare(a.Name, b.Name))
		})
	}
}

// rank orders priorities (Debian policy 2.5).
func rank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional"}, priority); i >= 0 {
		return i
	}
	return 4
}

// selection is what a resolution has chosen so far.
type selection struct {
	u      *universe
	chosen map[string]*candidate
	why    map[string]string // the package that needed it
	queue  []*candidate
}

// resolve returns the packages to install: the wanted ones, those that the distribution
// marks as essential or required, apt, and all that these depend on. Like apt, it takes
// the first alternative that fits, but prefers packages chosen already. It leaves out
// recommendations. It never goes back on a choice: a list that needs that is refused.
func (u *universe) resolve(wanted []string) ([]banger.Package, error) {
	s := &selection{u: u, chosen: map[string]*candidate{}, why: map[string]string{}}
	for _, name := range append([]string{"apt"}, wanted...) {
		c := u.byName[name]
		if c == nil {
			return nil, banger.Errorf(banger.CodeInvalid, "the archive has no package %q", name).
				WithHint("%s", u.suggest(name))
		}
		s.choose(c, "")
	}
	for _, name := range sorted(u.byName) {
		if c := u.byName[name]; c.essential || c.priority == "required" {
			s.choose(c, "")
		}
	}
	for len(s.queue) > 0 {
		c := s.queue[0]
		s.queue = s.queue[1:]
		if err := s.follow(c); err != nil {
			return nil, banger.Errorf(banger.CodeUnavailable, "%w", err).
				WithHint("the archive may be changing at this moment: try again; else leave the package out of the list")
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	var all []banger.Package
	for _, name := range sorted(s.chosen) {
		p := s.chosen[name].Package
		p.Auto = s.why[name] != ""
		all = append(all, p)
	}
	return all, nil
}

func (s *selection) choose(c *candidate, why string) {
	if s.chosen[c.Name] == nil {
		s.chosen[c.Name], s.why[c.Name] = c, why
		s.queue = append(s.queue, c)
	}
}

// follow chooses what a package depends on.
func (s *selection) follow(c *candidate) error {
	groups, err := relations(c.depends)
	if err != nil {
		return fmt.Errorf("package %s: %w", c.Name, err)
	}
	for _, g := range groups {
		if slices.ContainsFunc(g, s.met) {
			continue
		}
		next := s.find(g)
		if next == nil {
			return fmt.Errorf("%s needs %s, which the archive doesn't have%s", c.Name, g, s.chain(c.Name))
		}
		s.choose(next, c.Name)
	}
	return nil
}

func (s *selection) met(r relation) bool {
	if c := s.chosen[r.name]; c != nil && c.meets(r) {
		return true
	}
	return slices.ContainsFunc(s.u.providers[r.name], func(c *candidate) bool { return s.chosen[c.Name] == c && c.meets(r) })
}

func (s *selection) find(g group) *candidate {
	for _, r := range g {
		options := s.u.providers[r.name]
		if c := s.u.byName[r.name]; c != nil {
			options = append([]*candidate{c}, options...)
		}
		for _, c := range options {
			if c.meets(r) && s.clash(c) == nil {
				return c
			}
		}
	}
	return nil
}

// clash returns a chosen package that c conflicts with.
func (s *selection) clash(c *candidate) *candidate {
	for _, name := range sorted(s.chosen) {
		if other := s.chosen[name]; other != c && (c.excludes(other) || other.excludes(c)) {
			return other
		}
	}
	return nil
}

func (c *candidate) excludes(other *candidate) bool {
	if !c.parsed {
		groups, _ := relations(c.conflict) // on an error there are none; dpkg will report it
		for _, g := range groups {
			c.conflicts = append(c.conflicts, g[0])
		}
		c.parsed = true
	}
	return slices.ContainsFunc(c.conflicts, other.meets)
}

func (s *selection) check() error {
	for _, name := range sorted(s.chosen) {
		if other := s.clash(s.chosen[name]); other != nil {
			return banger.Errorf(banger.CodeInvalid, "%s%s and %s%s can't be installed together", name, s.chain(name), other.Name, s.chain(other.Name)).
				WithHint("leave one of them out of the list")
		}
	}
	return nil
}

// chain says which packages needed a package, for messages.
func (s *selection) chain(name string) string {
	var by []string
	for at := s.why[name]; at != "" && len(by) < 20; at = s.why[at] {
		by = append(by, at)
	}
	if len(by) == 0 {
		return ""
	}
	return " (needed by " + strings.Join(by, ", by ") + ")"
}

// suggest returns a hint for a name that no package has.
func (u *universe) suggest(name string) string {
	if list := u.providers[name]; len(list) > 0 {
		var names []string
		for _, c := range list[:min(len(list), 5)] {
			names = append(names, c.Name)
		}
		return "it is provided by " + strings.Join(names, ", ") + ": name one of them"
	}
	return "look for the name, and whether this suite has it, at https://packages.debian.org"
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
