package bootstrap

import (
	"fmt"
	"slices"
	"strings"

	"banger"
)

// finish writes the files that belong to no package: dpkg's database, in which every
// package is unpacked and not configured, and what the first package needs to be
// configured.
func (t *tree) finish(lock banger.Lock) error {
	var status, extended strings.Builder
	var interests []interest
	for _, u := range t.all {
		status.WriteString(u.status())
		if u.Auto {
			fmt.Fprintf(&extended, "Package: %s\nArchitecture: amd64\nAuto-Installed: 1\n\n", u.Name)
		}
		if err := t.info(u); err != nil {
			return err
		}
		interests = append(interests, u.interests()...)
	}
	// Maintainer scripts find their tools through these links.
	for _, root := range roots {
		if t.dirs["usr/"+root] {
			if err := t.link(root, "usr/"+root); err != nil {
				return err
			}
		}
	}
	if t.owner["usr/bin/sh"] == nil {
		if err := t.link("usr/bin/sh", "dash"); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, data string }{
		{"var/lib/dpkg/status", status.String()},
		{"var/lib/dpkg/available", ""},
		{"var/lib/dpkg/info/format", "1\n"},
		{"var/lib/dpkg/triggers/Unincorp", ""},
		{"var/lib/apt/extended_states", extended.String()},
		{"etc/dpkg/dpkg.cfg.d/excludes", excludes},
		{"etc/apt/sources.list.d/debian.sources", sources(lock.Suite)},
	} {
		if err := t.file(f.name, 0o644, []byte(f.data)); err != nil {
			return err
		}
	}
	if err := t.triggers(interests); err != nil {
		return err
	}
	return t.out.Close()
}

// sources is the configuration of the image's own apt.
func sources(suite string) string {
	const keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
	return "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: " + suite + " " + suite + "-updates\nComponents: main\n" + keyring +
		"\nTypes: deb\nURIs: http://deb.debian.org/debian-security\nSuites: " + suite + "-security\nComponents: main\n" + keyring
}

// dbName is a package's name in dpkg's database: with the architecture, if the package
// may be installed for several.
func (u *unpacked) dbName() string {
	if u.fields["Multi-Arch"] == "same" {
		return u.Name + ":" + u.Arch
	}
	return u.Name
}

// status is the package's stanza in /var/lib/dpkg/status.
func (u *unpacked) status() string {
	var b strings.Builder
	for line := range strings.Lines(u.control) {
		b.WriteString(line)
		if strings.HasPrefix(line, "Package:") {
			b.WriteString("Status: install ok unpacked\n")
		}
	}
	if len(u.conffiles) > 0 {
		b.WriteString("Conffiles:\n")
	}
	for _, name := range sorted(u.conffiles) {
		if sum := u.conffiles[name]; sum != "" {
			fmt.Fprintf(&b, " %s %s\n", name, sum)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// info writes a package's files of /var/lib/dpkg/info.
func (t *tree) info(u *unpacked) error {
	base := "var/lib/dpkg/info/" + u.dbName() + "."
	slices.Sort(u.files)
	var list strings.Builder
	for _, f := range slices.Compact(u.files) {
		list.WriteString(f + "\n")
	}
	if err := t.file(base+"list", 0o644, []byte(list.String())); err != nil {
		return err
	}
	for _, name := range sorted(u.members) {
		mode := int64(0o644)
		if slices.Contains([]string{"preinst", "postinst", "prerm", "postrm", "config"}, name) {
			mode = 0o755
		}
		if err := t.file(base+name, mode, u.members[name]); err != nil {
			return err
		}
	}
	return nil
}

// interest is a trigger that a package waits for (deb-triggers(5)).
type interest struct{ trigger, who string }

func (u *unpacked) interests() (list []interest) {
	for line := range strings.Lines(string(u.members["triggers"])) {
		line, _, _ := strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(f[0], "interest") {
			continue
		}
		who := u.dbName()
		if f[0] == "interest-noawait" {
			who += "/noawait"
		}
		list = append(list, interest{f[1], who})
	}
	return list
}

// triggers writes which packages are interested in which triggers. None is pending: all
// files are there before the first package is configured, and when a package is
// configured, it does what its triggers would do.
func (t *tree) triggers(interests []interest) error {
	var files strings.Builder
	named := map[string]string{}
	for _, i := range interests {
		switch {
		case strings.HasPrefix(i.trigger, "/"):
			fmt.Fprintf(&files, "%s %s\n", i.trigger, i.who)
		case nameOf.MatchString(i.trigger):
			named[i.trigger] += i.who + "\n"
		}
	}
	if err := t.file("var/lib/dpkg/triggers/File", 0o644, []byte(files.String())); err != nil {
		return err
	}
	for _, name := range sorted(named) {
		if err := t.file("var/lib/dpkg/triggers/"+name, 0o644, []byte(named[name])); err != nil {
			return err
		}
	}
	return nil
}
