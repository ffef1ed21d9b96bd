package send

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever git lists of an index, a path that is taken is one within the work tree and
// not within a .git, and is written again as it came.
func FuzzEntry(f *testing.F) {
	f.Add("H 100644 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 0\tdir/file")
	f.Add("S 160000 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 0\ta\tb\n")
	f.Add("H 100644\nabc\n0\tx")
	f.Add("H 000000 - 0\tx")
	f.Add("H 100644 x 0\t../.GIT/config")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		if !filepath.IsLocal(e.path) || strings.Contains("/"+strings.ToLower(e.path)+"/", "/.git/") || !strings.HasSuffix(line, " "+e.info+"\t"+e.path) {
			t.Errorf("%q is %+v", line, e)
		}
		if what, stage := e.what(); what+" "+stage != e.info {
			t.Errorf("%q is %q in stage %q", line, what, stage)
		}
		if e.object() == "" || len(e.mode()) != 6 {
			t.Errorf("%q has the mode %q, the object %q", line, e.mode(), e.object())
		}
	})
}

// No address that travels has a secret in it, and each stays one line of a
// configuration.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://user:token@host/path?x=secret#y", "git@host:path", "ssh://git:pass@host/x", "/home/me/repo", "ext::sh -c x", "http://host/%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		got, ok := publicURL(address)
		if !ok {
			return
		}
		if strings.ContainsAny(got, "\n\r\x00") {
			t.Errorf("%q became %q", address, got)
		}
		if u, err := url.Parse(got); err == nil && u.User != nil {
			if _, secret := u.User.Password(); secret || u.Scheme == "http" || u.Scheme == "https" {
				t.Errorf("%q became %q", address, got)
			}
		}
	})
}
