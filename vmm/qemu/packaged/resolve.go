package packaged

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
)

// wanted are the packages of which files are kept that aren't libraries. The first has the
// program, whose dependencies are followed as far as they are libraries: what else it depends on
// is for other machines, for its administrator, or for scripts of packages, which aren't run.
var wanted = []string{"qemu-system-x86", "qemu-system-data", "seabios"}

// library matches the names of packages that have libraries.
var library = regexp.MustCompile(`^(lib|zlib1g)[a-z0-9.+-]*$`)

// pkg is a package of an archive's index.
type pkg struct {
	name, version, depends string
	archive                string
	file                   debian.File
}

// known are the packages of all indexes, each in its newest version, and which of them provide
// a name.
type known struct {
	packages  map[string]pkg
	providers map[string][]string
}

// resolve returns the packages that QEMU takes, sorted by name.
func (i Installer) resolve(ctx context.Context, report fetch.Reports) ([]pkg, error) {
	all := known{map[string]pkg{}, map[string][]string{}}
	for _, part := range i.From.Suites(release) {
		var say func(int64)
		x, err := part.Index(ctx, func(done, total int64) {
			if say == nil {
				say = report("package index of "+part.Codename, total)
			}
			say(done)
		})
		if err == nil {
			err = x.Each(ctx, func(stanza map[string]string) error { return all.add(part.Archive, stanza) })
		}
		if err != nil {
			return nil, err
		}
	}
	packages, err := all.closure()
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "QEMU of %s: %w", release, err).
			WithHint("the archive may be changing at this moment: try again; or install qemu-system-x86 of this host's distribution")
	}
	return packages, nil
}

func (k known) add(archive string, stanza map[string]string) error {
	name, version := stanza["Package"], stanza["Version"]
	if !library.MatchString(name) && !slices.Contains(wanted, name) {
		return nil
	}
	if old, ok := k.packages[name]; ok && debian.Compare(old.version, version) >= 0 {
		return nil
	}
	file, err := debian.PackageFile(stanza)
	if err != nil {
		return err
	}
	k.packages[name] = pkg{name, version, stanza["Pre-Depends"] + "," + stanza["Depends"], archive, file}
	for _, provided := range names(stanza["Provides"]) {
		if !slices.Contains(k.providers[provided[0]], name) {
			k.providers[provided[0]] = append(k.providers[provided[0]], name)
		}
	}
	return nil
}

// closure returns QEMU's packages and the libraries that they and their libraries depend on. Of
// alternatives it takes the first that the archive has. Versions aren't compared: those of one
// release fit together, and what is missing in the end is found out (assemble).
func (k known) closure() ([]pkg, error) {
	chosen := map[string]bool{}
	queue := slices.Clone(wanted)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		p, ok := k.packages[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("the archive has no package %s", name)
		case chosen[name]:
			continue
		}
		chosen[name] = true
		if slices.Contains(wanted[1:], name) {
			continue // files without a program: they depend on nothing
		}
		for _, alternatives := range names(p.depends) {
			if next := k.first(alternatives); next != "" {
				queue = append(queue, next)
			}
		}
	}
	var list []pkg
	for name := range chosen {
		list = append(list, k.packages[name])
	}
	slices.SortFunc(list, func(a, b pkg) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

// first returns the first of the names that is a library's package or is provided by one; "":
// none is.
func (k known) first(alternatives []string) string {
	for _, name := range alternatives {
		if !library.MatchString(name) {
			continue
		}
		if _, ok := k.packages[name]; ok {
			return name
		}
		if by := k.providers[name]; len(by) > 0 {
			return slices.Min(by)
		}
	}
	return ""
}

// names returns the names in a list of relations (deb-control(5)): for each the alternatives.
func names(relations string) (all [][]string) {
	for relation := range strings.SplitSeq(relations, ",") {
		var alternatives []string
		for one := range strings.SplitSeq(relation, "|") {
			if f := strings.Fields(one); len(f) > 0 {
				name, _, _ := strings.Cut(f[0], ":") // an architecture
				name, _, _ = strings.Cut(name, "(")
				alternatives = append(alternatives, name)
			}
		}
		if len(alternatives) > 0 {
			all = append(all, alternatives)
		}
	}
	return all
}

// fetch fetches packages and returns their files.
func (i Installer) fetch(ctx context.Context, packages []pkg, report fetch.Reports) (debs []string, err error) {
	var total, done int64
	for _, p := range packages {
		total += p.file.Size
	}
	say := report(fmt.Sprintf("QEMU, %d packages", len(packages)), total)
	for _, p := range packages {
		from := i.From
		from.Archive = p.archive
		deb, found, err := from.Fetch(ctx, p.file, func(n int64) { say(done + n) })
		if err == nil && !found {
			err = banger.Errorf(banger.CodeUnavailable, "fetch %s: %w (Not Found)", from.Address(p.file), fetch.ErrMissing).
				WithHint("is the mirror a complete Debian mirror?")
		}
		if err != nil {
			return nil, err
		}
		done += p.file.Size
		debs = append(debs, deb)
	}
	return debs, nil
}
