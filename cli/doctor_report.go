package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger"
	"banger/version"
)

// bugReport is what a bug report needs, with names taken out.
func bugReport(ctx context.Context, a *App, r banger.Report) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "<!-- Your name, your host's and your VMs' were taken out. Look through this before you post it. -->\n## Versions\n```\nbanger %s\n", version.String())
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var names []string
	if st, err := a.Daemon.Status(ctx); err == nil && st.Running {
		_, _ = fmt.Fprintf(&b, "bangerd %s, API %d\n", st.Daemon.Build, st.Daemon.API)
		vms, err := a.VMs().VMs(ctx)
		if err != nil {
			_, _ = fmt.Fprintln(&b, "VMs:", err)
		}
		for _, vm := range vms {
			names = append(names, vm.Spec.Name)
			_, _ = fmt.Fprintf(&b, "vm %s: %s, %d CPUs, %d MiB, %s, %s: %s\n", vm.ID, vm.State, vm.Spec.VCPU, vm.Spec.MemoryMiB, vm.Spec.Hypervisor, vm.Spec.Net, printable(vm.Reason, 200))
		}
	}
	b.WriteString(r.System + "```\n## Doctor\n```\n")
	printReport(&page{w: &b}, r)
	b.WriteString("```\n## Settings\n```\n")
	if conf, err := a.Config(); err != nil {
		_, _ = fmt.Fprintln(&b, err)
	} else {
		for _, s := range conf.Settings() {
			if s.Source != "default" {
				_, _ = fmt.Fprintf(&b, "%s = %v\n", s.Key, s.Value)
			}
		}
	}
	_, _ = fmt.Fprintf(&b, "```\n## End of the daemon's log\n```\n%s\n```\n", a.Daemon.Log(60))
	return redact(b.String(), append(ownNames(), names...))
}

// ownNames are the names of this user and this host, which a report must not have.
func ownNames() []string {
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

// redact takes names, credentials, mail and network addresses out of a text. It
// leaves names of one or two letters, and root, which are part of many words.
func redact(text string, names []string) string {
	text = secret.ReplaceAllString(text, "${1}REDACTED")
	text = inURL.ReplaceAllString(text, "${1}\x00") // a mark for now: text would look like a mail address
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
