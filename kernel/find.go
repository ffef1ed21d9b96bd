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

// metapackage depends on the newest kernel of a release.
const metapackage = "linux-image-cloud-amd64"

// releases are the Debian releases that kernels come from, by the kernel's name.
var releases = map[string]string{"debian-12-cloud": "bookworm", "debian-13-cloud": "trixie"}

// DefaultName is the kernel to take when nobody asks for one.
const DefaultName = "debian-12-cloud"

// pkg is a package with a kernel.
type pkg struct {
	name, version, depends string
	archive                string
	file                   debian.File
}

// kernelName matches the names of packages that have a kernel, and not of those that
// only depend on one. The group is the kernel's version, as uname -r prints it.
var kernelName = regexp.MustCompile(`^linux-image-([0-9][A-Za-z0-9.+~]*(?:-[A-Za-z0-9.+~]+)*)$`)

// find returns the package with a release's newest kernel, security updates included,
// and the paths of the indexes it was found in.
func (k *Kernels) find(ctx context.Context, name string, report reporter) (p pkg, indexes []string, err error) {
	found := candidates{}
	for _, part := range k.From.Suites(releases[name]) {
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
	if p, err = found.newest(); err != nil {
		return pkg{}, nil, banger.Errorf(banger.CodeUnavailable, "kernel of %s: %w", releases[name], err)
	}
	return p, indexes, k.note(name, p)
}

// candidates are the metapackages and the kernels' packages by name, in all versions.
type candidates map[string][]pkg

// from returns a function that takes an archive's packages and keeps the candidates.
func (c candidates) from(archive string) func(map[string]string) error {
	return func(stanza map[string]string) error {
		name := stanza["Package"]
		if name != metapackage && !kernelName.MatchString(name) {
			return nil
		}
		file, err := debian.PackageFile(stanza)
		if err != nil {
			return err
		}
		c[name] = append(c[name], pkg{name, stanza["Version"], stanza["Depends"], archive, file})
		return nil
	}
}

// newest returns the package that the highest version of the metapackage depends on.
func (c candidates) newest() (pkg, error) {
	meta, ok := highest(c[metapackage])
	if !ok {
		return pkg{}, fmt.Errorf("the archive has no package %s", metapackage)
	}
	for dep := range strings.SplitSeq(meta.depends, ",") {
		name, bound, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if !kernelName.MatchString(name) {
			continue
		}
		p, ok := highest(c[name])
		if !ok {
			return pkg{}, fmt.Errorf("%s depends on %s, which the archive doesn't have", metapackage, name)
		}
		if bound == "" {
			return p, nil
		}
		i := slices.IndexFunc(c[name], func(p pkg) bool { return bound == "(= "+p.version+")" })
		if i < 0 {
			return pkg{}, fmt.Errorf("%s depends on %s %s, the archive has %s", metapackage, name, bound, p.version)
		}
		return c[name][i], nil
	}
	return pkg{}, fmt.Errorf("%s depends on no kernel: %.80q", metapackage, meta.depends)
}

func highest(list []pkg) (pkg, bool) {
	if len(list) == 0 {
		return pkg{}, false
	}
	return slices.MaxFunc(list, func(a, b pkg) int { return debian.Compare(a.version, b.version) }), true
}

// fetch fetches a package and returns its path.
func (k *Kernels) fetch(ctx context.Context, p pkg, report reporter) (string, error) {
	from := k.From
	from.Archive = p.archive
	deb, found, err := from.Fetch(ctx, p.file, report(p.name+" "+p.version, p.file.Size))
	if err == nil && !found {
		err = banger.Errorf(banger.CodeUnavailable, "fetch %s: %w (Not Found)", from.Address(p.file), fetch.ErrMissing).
			WithHint("is the mirror a complete Debian mirror?")
	}
	return deb, err
}
