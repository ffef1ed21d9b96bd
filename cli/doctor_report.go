package doctor

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger"
)

// Kernel judges whether the kernel that new VMs get is here.
func Kernel(name string, have []banger.Kernel) Check {
	for _, k := range slices.Backward(have) {
		if k.Name == name || k.ID == name {
			return Check{Name: "kernel", Level: OK, Found: fmt.Sprintf("%s is here, %s", name, k.Version)}
		}
	}
	return Check{"kernel", Note, "the default kernel " + name + " isn't here yet", "the first VM fetches it", "banger kernel pull"}
}

// Image judges whether the image that new VMs get is here.
func Image(name string, have []banger.Image) Check {
	for _, i := range have {
		if i.Name == name || i.ID == name {
			return Check{Name: "image", Level: OK, Found: name + " is here"}
		}
	}
	return Check{"image", Warn, "the default image " + name + " isn't here yet", "`banger vm run` has nothing to run in",
		"make quickstart, or `banger image import --name " + name + " TAR` with a tar of a root file system"}
}

// System describes the host's software and processor in a few lines. Root is
// put before the paths.
func System(root string) string {
	h := &Host{Root: root}
	var b strings.Builder
	line := func(key, path, field string) {
		for l := range strings.Lines(h.text(path)) {
			k, v, ok := strings.Cut(l, field)
			if ok && strings.TrimSpace(k) == "" || ok && strings.HasPrefix(l, "model name") {
				_, _ = fmt.Fprintf(&b, "%s: %s\n", key, strings.Trim(strings.TrimSpace(strings.TrimLeft(v, "\t :=")), `"`))
				return
			}
		}
	}
	line("system", "/etc/os-release", "PRETTY_NAME=")
	line("kernel", "/proc/version", "Linux version")
	line("processor", "/proc/cpuinfo", "model name")
	line("memory", "/proc/meminfo", "MemTotal:")
	return b.String()
}

// Names are those of this user and this host, which a report must not tell.
func Names() []string {
	var names []string
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if me, err := user.Current(); err == nil {
		names = append(names, me.HomeDir, me.Username, me.Name)
	}
	if home, err := os.UserHomeDir(); err == nil {
		names = append(names, home)
	}
	return names
}

var (
	secret  = regexp.MustCompile(`(?i)((?:token|password|passwd|secret|api_?key|authorization)["']?\s*[:=]\s*)("[^"]*"|\S+)`)
	inURL   = regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/@\s]+@`)
	email   = regexp.MustCompile(`[\w.+-]+@[\w-]+\.[\w.-]+`)
	address = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b`)
)

// Redact takes names, credentials, mail and network addresses out of a text.
// Names shorter than three letters, and root, would take half the text along.
func Redact(text string, names []string) string {
	text = secret.ReplaceAllString(text, "${1}REDACTED")
	text = inURL.ReplaceAllString(text, "${1}\x00") // not yet as text, which would look like mail
	text = email.ReplaceAllString(text, "MAIL")
	text = strings.ReplaceAll(text, "\x00", "REDACTED@")
	text = address.ReplaceAllStringFunc(text, func(a string) string {
		if ip := net.ParseIP(a); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
			return a
		}
		return "ADDRESS"
	})
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) }) // a path before the name in it
	for _, n := range slices.Compact(names) {
		if len(n) < 3 || n == "root" {
			continue
		}
		with := "NAME"
		if filepath.IsAbs(n) {
			text = strings.ReplaceAll(text, n, "~")
			continue
		}
		text = regexp.MustCompile(`(^|[^A-Za-z0-9_])`+regexp.QuoteMeta(n)+`($|[^A-Za-z0-9_])`).ReplaceAllString(text, "${1}"+with+"${2}")
	}
	return text
}
