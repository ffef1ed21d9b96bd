package bootstrap

import (
	"fmt"
	"strings"
	"testing"

	"banger"
	"banger/fetch/debian"
)

func TestRelations(t *testing.T) {
	groups, err := relations("libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any, gcc-12 (<<12.3~), ,")
	if err != nil || fmt.Sprint(groups) != "[libc6 (>= 2.36) debconf (>= 0.5) | debconf-2.0 python3 gcc-12 (<< 12.3~)]" {
		t.Errorf("%v, %v", groups, err)
	}
	for _, bad := range []string{"a b", "lib (2)", "lib (~= 2)", "$(reboot)", "x |", "Upper"} {
		if g, err := relations(bad); err == nil {
			t.Errorf("%q: %v", bad, g)
		}
	}
}

// index makes a universe of short stanzas.
func index(t *testing.T, text string) *universe {
	t.Helper()
	u := newUniverse()
	for para := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		s := debian.Stanza(para)
		for key, value := range map[string]string{"Version": "1", "Architecture": "amd64", "Size": "1", "Priority": "optional"} {
			if s[key] == "" {
				s[key] = value
			}
		}
		if err := u.add(debian.Main, s); err != nil {
			t.Fatal(err)
		}
	}
	u.seal()
	return u
}

const small = `
Package: apt

Package: base
Essential: yes
Pre-Depends: awk

Package: mawk
Provides: awk
Priority: required

Package: gawk
Provides: awk

Package: old
Version: 1

Package: old
Version: 2
Depends: new (>= 3) | newer

Package: new
Version: 2

Package: newer

Package: other
Architecture: arm64

Package: mta
Provides: mail (= 2), post

Package: wants-mail
Depends: mail (>= 2)

Package: wants-more-mail
Depends: mail (>= 3)

Package: wants-post
Depends: post (>= 1)

Package: cat
Conflicts: dog

Package: dog

Package: either
Depends: dog | cat

Package: loop-a
Depends: loop-b

Package: loop-b
Depends: loop-a

Package: broken
Depends: what is this

Package: own
Provides: mail-agent
Conflicts: mail-agent
`

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name, wanted, got, err string
	}{
		{"essential and required come, and apt", "", "apt base mawk", ""},
		{"what is chosen is as good as what comes first", "gawk", "apt base gawk mawk", ""},
		{"the higher version, and the alternative that fits", "old", "apt base mawk newer old", ""},
		{"a provision with a version", "wants-mail", "apt base mawk mta wants-mail", ""},
		{"a provision of too low a version", "wants-more-mail", "", "wants-more-mail needs mail (>= 3), which the archive doesn't have"},
		{"a provision without a version meets no bound", "wants-post", "", "wants-post needs post (>= 1)"},
		{"an alternative that clashes is passed by", "cat either", "apt base cat either mawk", ""},
		{"what excludes each other", "cat dog", "", "be installed together"},
		{"a circle", "loop-a", "apt base loop-a loop-b mawk", ""},
		{"a package that excludes what it provides itself", "own", "apt base mawk own", ""},
		{"no such package", "nosuch", "", `no package "nosuch"`},
		{"another architecture's", "other", "", `no package "other"`},
		{"a relation nobody can read", "broken", "", "can't be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := index(t, small).resolve(strings.Fields(c.wanted))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, %v, want %q", list, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := names(list); got != c.got {
				t.Errorf("got %s, want %s", got, c.got)
			}
		})
	}
}

// Only what nobody asked for is marked so.
func TestAuto(t *testing.T) {
	list, err := index(t, small).resolve([]string{"old"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if auto := p.Name == "newer"; p.Auto != auto {
			t.Errorf("%s: auto %v", p.Name, p.Auto)
		}
	}
}

func names(list []banger.Package) string {
	var s []string
	for _, p := range list {
		s = append(s, p.Name)
	}
	return strings.Join(s, " ")
}

// Stanzas that no archive has.
func TestBadStanzas(t *testing.T) {
	for want, s := range map[string]map[string]string{
		`package "../x", version "1"`: {"Package": "../x", "Version": "1"},
		`package "xx", version ""`:    {"Package": "xx"},
		`package xx: size "many"`:     {"Package": "xx", "Version": "1", "Architecture": "all", "Size": "many"},
	} {
		if err := newUniverse().add(debian.Main, s); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
