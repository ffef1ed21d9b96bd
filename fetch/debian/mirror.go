package debian

import (
	"bytes"
	"io/fs"
	"net/url"
	"slices"
	"strings"
)

// fallbackMirror is Debian's content delivery network; it needs no mirror nearby.
const fallbackMirror = "http://deb.debian.org/debian"

// Mirror returns the mirror that a Debian host's own apt uses, and a public
// one on any other host. root is the host's root directory.
func Mirror(root fs.FS) string {
	os, err := fs.ReadFile(root, "etc/os-release")
	if err != nil || !slices.Contains(strings.Fields(string(os)), "ID=debian") {
		return fallbackMirror
	}
	files := []string{"etc/apt/sources.list"}
	for _, pattern := range []string{"etc/apt/sources.list.d/*.list", "etc/apt/sources.list.d/*.sources"} {
		found, _ := fs.Glob(root, pattern) // the patterns are well-formed
		files = append(files, found...)
	}
	for _, name := range files {
		data, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		read := readOneLine
		if strings.HasSuffix(name, ".sources") {
			read = readDeb822
		}
		for _, s := range read(data) {
			if m := s.mirror(); m != "" {
				return m
			}
		}
	}
	return fallbackMirror
}

// source is one entry of apt's configuration (sources.list(5)).
type source struct {
	types, uris, suites, components []string
	signedBy                        string
	disabled                        bool
}

// mirror returns the address if the entry is Debian's own main archive. Other
// vendors use the same suite and path names, but not Debian's keys.
func (s source) mirror() string {
	ours := strings.Contains(s.signedBy, "debian-archive") || s.signedBy == ""
	if s.disabled || !ours || !slices.Contains(s.types, "deb") || !slices.Contains(s.components, "main") {
		return ""
	}
	known := func(name string) bool {
		return slices.Contains([]string{"stable", "oldstable", "bookworm", "trixie"}, name)
	}
	if !slices.ContainsFunc(s.suites, known) {
		return ""
	}
	for _, address := range s.uris {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			continue
		}
		if trimmed := strings.TrimRight(address, "/"); strings.HasSuffix(trimmed, "/debian") {
			return trimmed
		}
	}
	return ""
}

// readOneLine reads "deb [option=value …] URI suite component…".
func readOneLine(data []byte) (list []source) {
	for line := range bytes.Lines(data) {
		text, _, _ := strings.Cut(string(line), "#")
		var s source
		if before, rest, ok := strings.Cut(text, "["); ok {
			options, after, _ := strings.Cut(rest, "]")
			for _, o := range strings.Fields(options) {
				if key, value, _ := strings.Cut(o, "="); key == "signed-by" {
					s.signedBy = value
				}
			}
			text = before + after
		}
		if f := strings.Fields(text); len(f) > 3 {
			s.types, s.uris, s.suites, s.components = f[:1], f[1:2], f[2:3], f[3:]
			list = append(list, s)
		}
	}
	return list
}

// readDeb822 reads stanzas of "Types:", "URIs:", "Suites:", "Components:".
func readDeb822(data []byte) (list []source) {
	_ = Stanzas(bytes.NewReader(data), func(stanza map[string]string) error {
		field := map[string]string{} // apt reads their names in any case
		for key, value := range stanza {
			field[strings.ToLower(key)] = value
		}
		list = append(list, source{
			types: strings.Fields(field["types"]), uris: strings.Fields(field["uris"]), suites: strings.Fields(field["suites"]),
			components: strings.Fields(field["components"]), signedBy: field["signed-by"], disabled: field["enabled"] == "no",
		})
		return nil
	})
	return list
}
