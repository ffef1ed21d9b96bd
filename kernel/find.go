package kernel

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
)

const (
	cloud     = "linux-image-cloud-amd64" // depends on the newest kernel of a release
	uml       = "user-mode-linux"         // a kernel that is a program
	libraries = "libc6"                   // all that such a program needs
)

// origin is where a kernel comes from: a Debian release, a package that has it or depends on
// it, and other packages that it needs.
type origin struct {
	release, pkg string
	with         []string
}

// origins are those of all kernels, by the kernel's name.
var origins = map[string]origin{
	"debian-12-cloud": {"bookworm", cloud, nil},
	"debian-13-cloud": {"trixie", cloud, nil},
	"debian-13-uml":   {"trixie", uml, []string{libraries}},
}

// DefaultName is the kernel to take when nobody asks for one.
const DefaultName = "debian-12-cloud"

// pkg is a package of a kernel.
type pkg struct {
	name, version, depends string
	archive                string
	file                   debian.File
	with                   []pkg  // the others that the kernel needs
	current                string // version of the release's own kernel, for one that is a program
}

// all returns the packages of a kernel.
func (p pkg) all() []pkg { return append([]pkg{p}, p.with...) }

// kernelName matches the names of packages that have a kernel, and not of those that
// only depend on one. The group is the kernel's version, as uname -r prints it.
var kernelName = regexp.MustCompile(`^linux-image-([0-9][A-Za-z0-9.+~]*(?:-[A-Za-z0-9.+~]+)*)$`)

// find returns the package with a name's newest kernel, security updates included,
// and the paths of the indexes it was found in.
func (k *Kernels) find(ctx context.Context, name string, report fetch.Reports) (p pkg, indexes []string, err error) {
	found, from := candidates{}, origins[name]
	for _, part := range k.From.Suites(from.release) {
		var say func(int64)
		x, err := part.Index(ctx, func(done, total int64) {
			if say == nil {
				say = report("package index of "+part.Codename, total)
			}
			say(done)
		})
		if err == nil {
			err = x.Each(ctx, found.from(part.Archive))
		}
		if err != nil {
			return pkg{}, nil, err
		}
		indexes = append(indexes, x.File)
	}
	if p, err = found.newest(from); err != nil {
		return pkg{}, nil, banger.Errorf(banger.CodeUnavailable, "kernel of %s: %w", from.release, err)
	}
	return p, indexes, k.note(name, p)
}

// candidates are the packages that an origin may name or depend on, by name, in all versions.
type candidates map[string][]pkg

// from returns a function that takes an archive's packages and keeps the candidates.
func (c candidates) from(archive string) func(map[string]string) error {
	return func(stanza map[string]string) error {
		name := stanza["Package"]
		if name != cloud && name != uml && name != libraries && !kernelName.MatchString(name) {
			return nil
		}
		file, err := debian.PackageFile(stanza)
		if err != nil {
			return err
		}
		c[name] = append(c[name], pkg{name: name, version: stanza["Version"], depends: stanza["Depends"], archive: archive, file: file})
		return nil
	}
}

// newest returns the newest kernel's package, with those that it needs.
func (c candidates) newest(from origin) (pkg, error) {
	p, err := c.highest(from.pkg)
	if err == nil && from.pkg == cloud {
		p, err = c.kernelOf(p)
	}
	if meta, err := c.highest(cloud); err == nil && from.pkg == uml {
		p.current = meta.version
	}
	for _, name := range from.with {
		if err == nil {
			var with pkg
			with, err = c.highest(name)
			p.with = append(p.with, with)
		}
	}
	return p, err
}

// kernelOf returns the package that the metapackage depends on.
func (c candidates) kernelOf(meta pkg) (pkg, error) {
	for dep := range strings.SplitSeq(meta.depends, ",") {
		name, bound, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if !kernelName.MatchString(name) {
			continue
		}
		p, err := c.highest(name)
		if err != nil {
			return pkg{}, fmt.Errorf("%s depends on %s, which the archive doesn't have", meta.name, name)
		}
		if bound == "" {
			return p, nil
		}
		i := slices.IndexFunc(c[name], func(p pkg) bool { return bound == "(= "+p.version+")" })
		if i < 0 {
			return pkg{}, fmt.Errorf("%s depends on %s %s, the archive has %s", meta.name, name, bound, p.version)
		}
		return c[name][i], nil
	}
	return pkg{}, fmt.Errorf("%s depends on no kernel: %.80q", meta.name, meta.depends)
}

func (c candidates) highest(name string) (pkg, error) {
	if len(c[name]) == 0 {
		return pkg{}, fmt.Errorf("the archive has no package %s", name)
	}
	return slices.MaxFunc(c[name], func(a, b pkg) int { return debian.Compare(a.version, b.version) }), nil
}

// fetch fetches a package and returns its path.
func (k *Kernels) fetch(ctx context.Context, p pkg, report fetch.Reports) (string, error) {
	from := k.From
	from.Archive = p.archive
	deb, found, err := from.Fetch(ctx, p.file, report(p.name+" "+p.version, p.file.Size))
	if err == nil && !found {
		err = banger.Errorf(banger.CodeUnavailable, "fetch %s: %w (Not Found)", from.Address(p.file), fetch.ErrMissing).
			WithHint("is the mirror a complete Debian mirror?")
	}
	return deb, err
}
