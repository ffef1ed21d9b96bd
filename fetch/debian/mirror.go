package debian

import (
	"bytes"
	"io/fs"
	"net/url"
	"slices"
	"strings"
)

// fallbackMirror redirects nobody: it is a content delivery network.
const fallbackMirror = "http://deb.debian.org/debian"

// suite is where a kernel of a name comes from.
type suite struct{ codename, meta string }

var suites = map[string]suite{
	"debian-12-cloud": {"bookworm", "linux-image-cloud-amd64"},
	"debian-13-cloud": {"trixie", "linux-image-cloud-amd64"},
}

// DefaultName is the kernel to take when nobody asks for one.
const DefaultName = "debian-12-cloud"

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
	var s source
	var last *[]string
	for line := range bytes.Lines(append(data, "\n\n"...)) {
		text := strings.TrimRight(string(line), " \t\r\n")
		key, value, _ := strings.Cut(text, ":")
		fields := strings.Fields(value)
		switch strings.ToLower(key) {
		case "":
			if text == "" {
				list, s, last = append(list, s), source{}, nil
			}
		case "types":
			s.types, last = fields, &s.types
		case "uris":
			s.uris, last = fields, &s.uris
		case "suites":
			s.suites, last = fields, &s.suites
		case "components":
			s.components, last = fields, &s.components
		case "signed-by":
			s.signedBy, last = strings.TrimSpace(value), nil
		case "enabled":
			s.disabled, last = strings.TrimSpace(value) == "no", nil
		default:
			// A line that starts with a blank goes on with the field before.
			if last != nil && (text[0] == ' ' || text[0] == '\t') {
				*last = append(*last, strings.Fields(text)...)
			}
		}
	}
	return list
}
