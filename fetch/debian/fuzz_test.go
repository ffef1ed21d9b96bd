package debian

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// Whatever a release file lists, a file that it names has a whole checksum and a
// bounded size; and no text is a release unless it is signed.
func FuzzRelease(f *testing.F) {
	sum := strings.Repeat("0123456789abcdef", 4)
	f.Add([]byte("Origin: Debian\nCodename: bookworm\nDate: Sat, 17 May 2025 09:04:01 UTC\nSHA256:\n " + sum + " 123 main/binary-amd64/Packages.xz\n"))
	f.Add([]byte("SHA256: " + sum + " -1 x\n " + sum + " 99999999999999999999 y\n"))
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nCodename: bookworm\n-----BEGIN PGP SIGNATURE-----\n\niHUEABYKAB0WIQ==\n-----END PGP SIGNATURE-----\n"))
	keys, err := archiveKeys()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := openRelease(text, keys, "bookworm", time.Unix(1764000000, 0)); err == nil {
			t.Errorf("a release that Debian didn't sign: %v", r.fields)
		}
		r, err := parseRelease(text)
		if err != nil {
			return
		}
		for name, b := range r.files {
			if b.Check() != nil || !bytes.Contains(text, []byte(name)) || !bytes.Contains(bytes.ToLower(text), []byte(b.SHA256)) {
				t.Errorf("%q: %+v", name, b)
			}
		}
	})
}

// Whatever a host's lists of sources say, a mirror is an address of the web that they
// name, or the public one.
func FuzzSources(f *testing.F) {
	f.Add([]byte("deb [signed-by=/k arch=amd64] http://mirror.example/debian bookworm main\n"), []byte("Types: deb\nURIs: https://other.example/debian/\nSuites: bookworm\nComponents: main\n"))
	f.Add([]byte("deb [ http://x/debian bookworm main"), []byte("types: deb\nuris: file:///debian\nsuites: trixie\ncomponents: main\nenabled: no"))
	f.Fuzz(func(t *testing.T, list, sources []byte) {
		got := Mirror(fstest.MapFS{
			"etc/os-release":                        {Data: []byte("ID=debian\n")},
			"etc/apt/sources.list":                  {Data: list},
			"etc/apt/sources.list.d/debian.sources": {Data: sources},
		})
		named := bytes.Contains(list, []byte(got)) || bytes.Contains(sources, []byte(got))
		if got != fallbackMirror && (!named || !strings.HasPrefix(strings.ToLower(got), "http")) {
			t.Errorf("%q of %q and %q", got, list, sources)
		}
	})
}

// Versions are ordered as dpkg orders them, and either way round.
func FuzzVersions(f *testing.F) {
	for _, v := range []string{"1.0-1", "1:0.9", "1.0~rc1-1", "1.0+b1", "2.36-9+deb12u10", "0", "6.1.137-1", "1.0-1-1", "00.1a~"} {
		f.Add(v, "1.0-1")
	}
	dpkg, _ := exec.LookPath("dpkg")
	f.Fuzz(func(t *testing.T, a, b string) {
		c := Compare(a, b)
		if Compare(b, a) != -c || Compare(a, a) != 0 {
			t.Fatalf("%q and %q: %d, %d", a, b, c, Compare(b, a))
		}
		if dpkg == "" || !isVersion(a) || !isVersion(b) {
			return
		}
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[c]
		if err := exec.Command(dpkg, "--compare-versions", a, op, b).Run(); err != nil {
			t.Errorf("dpkg doesn't say that %q %s %q", a, op, b)
		}
	})
}

// isVersion reports what deb-version(7) calls one: all else dpkg orders as it likes.
func isVersion(v string) bool {
	epoch, upstream, ok := strings.Cut(v, ":")
	if !ok {
		epoch, upstream = "0", v
	}
	upstream, revision, ok := cutLast(upstream, "-")
	if !ok {
		revision = "0"
	}
	return len(v) < 100 && len(epoch) < 9 && epoch != "" && strings.Trim(epoch, "0123456789") == "" &&
		upstream != "" && isDigit(upstream[0]) && only(upstream, ".+-~:") && revision != "" && only(revision, ".+~")
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func only(s, more string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(more, r))
	})
}

// Each member of an archive that is found is one of the file's runs of bytes.
func FuzzMember(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   1342943816  0     0     100644  4         `\n2.0\ncontrol.tar.xz/ 1342943816  0     0     100644  3         `\nabc\n"))
	f.Add([]byte("!<arch>\nx               0           0     0     100644  -2        `\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, prefix := range []string{"debian-binary", "control.tar", "data.tar"} {
			_, r, err := member(bytes.NewReader(data), int64(len(data)), prefix)
			if err != nil {
				continue
			}
			got := make([]byte, r.Size())
			if n, err := r.ReadAt(got, 0); err != nil && n < len(got) || !bytes.Contains(data, got) {
				t.Errorf("%s has %d of %d bytes, %v", prefix, n, len(got), err)
			}
		}
	})
}
