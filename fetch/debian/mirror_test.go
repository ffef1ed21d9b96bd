package debian_test

import (
	"testing"
	"testing/fstest"

	"banger/fetch/debian"
)

func TestMirror(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	const debianHost, public = "PRETTY_NAME=x\nID=debian\n", "http://deb.debian.org/debian"
	for name, test := range map[string]struct {
		root fstest.MapFS
		want string
	}{
		"nothing": {fstest.MapFS{}, public},
		"ubuntu": {fstest.MapFS{"etc/os-release": file("ID=ubuntu\nID_LIKE=debian\n"),
			"etc/apt/sources.list": file("deb http://m/debian bookworm main\n")}, public},
		"one line": {fstest.MapFS{"etc/os-release": file(debianHost),
			"etc/apt/sources.list": file("# deb http://no/debian bookworm main\ndeb cdrom:[x]/ bookworm main\ndeb-src http://src/debian bookworm main\n" +
				"deb http://sec/debian-security bookworm-security main\ndeb [arch=amd64] https://m.example:8080/x/debian/ bookworm main contrib # hi\n")}, "https://m.example:8080/x/debian"},
		"another vendor": {fstest.MapFS{"etc/os-release": file(debianHost),
			"etc/apt/sources.list.d/t.list": file("deb [signed-by=/usr/share/keyrings/t.gpg] https://vendor/stable/debian bookworm main\n")}, public},
		"deb822": {fstest.MapFS{"etc/os-release": file(debianHost),
			"etc/apt/sources.list.d/a.sources": file("Types: deb\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n"),
			"etc/apt/sources.list.d/debian.sources": file("Types: deb deb-src\n# http://snapshot/debian\nURIs: mirror+file:/x\n http://m/debian\nSuites: bookworm bookworm-updates\n" +
				"Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n")}, "http://m/debian"},
	} {
		if got := debian.Mirror(test.root); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
