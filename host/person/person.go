// Package person reads what guests may have of the user of this host: git's name and mail,
// time zone and language; and, where config.toml says so, proxies and certificates. It
// bounds what it reads, and knows nothing of what guests do with it.
package person

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"banger"
	"banger/guest"
)

// Bounds of what is read. All has to fit one message to a guest.
const (
	maxZone  = 16 << 10
	maxCA    = 96 << 10
	maxWord  = 200
	gitTime  = 2 * time.Second
	keepTime = time.Minute // what was read is used again for so long
)

// Reader reads. The exported fields are set before the first use.
type Reader struct {
	Root   string // prefix of the system's files; "" on a real host
	Getenv func(string) string
	Like   bool   // git's name and mail, time zone and language are read
	Proxy  string // "": none; "host": those of the environment; else a URL
	CA     string // path of a PEM file; "": none
	Now    func() time.Time

	mu   sync.Mutex
	last guest.Home
	read time.Time
}

// Home returns what guests get. The error says what config.toml asks for and isn't there.
func (r *Reader) Home(ctx context.Context) (guest.Home, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.Now(); r.read.IsZero() || now.Sub(r.read) > keepTime || now.Before(r.read) {
		h := guest.Home{Proxy: r.proxies()}
		var err error
		if h.Certificates, err = authorities(r.CA); err != nil {
			return guest.Home{}, err
		}
		if r.Like {
			h.Name, h.Mail = gitUser(ctx)
			h.Zone, h.ZoneFile = r.zone()
			h.Lang = r.lang()
		}
		r.last, r.read = h, now
	}
	return r.last, nil
}

// gitUser asks git for the user's own settings. No repository's are read.
func gitUser(ctx context.Context) (name, mail string) {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "config", "--global", "--includes", "-z", "--get-regexp", `^user\.(name|email)$`)
	cmd.Dir = "/"
	out, _ := cmd.Output() // without git, or a name, there is none
	for entry := range bytes.SplitSeq(out, []byte{0}) {
		switch key, value, _ := strings.Cut(string(entry), "\n"); key {
		case "user.name":
			name = word(value)
		case "user.email":
			mail = word(value)
		}
	}
	return name, mail
}

// word is a short text of one line, else nothing.
func word(s string) string {
	if len(s) > maxWord || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return s
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)

// zone is the host's time zone and its rules.
func (r *Reader) zone() (name string, rules []byte) {
	path := filepath.Join(r.Root, "/etc/localtime")
	link, err := os.Readlink(path)
	_, name, found := strings.Cut(link, "zoneinfo/")
	if err != nil || !found {
		text, _ := bounded(filepath.Join(r.Root, "/etc/timezone"), maxWord) // the name of a file that is no link
		name = strings.TrimSpace(string(text))
	}
	if !zoneName.MatchString(name) {
		return "", nil
	}
	if rules, err = bounded(path, maxZone); err != nil || !bytes.HasPrefix(rules, []byte("TZif")) {
		rules = nil
	}
	return name, rules
}

var langName = regexp.MustCompile(`^[a-z]{2,3}_[A-Z]{2}\.[A-Za-z0-9-]+$`)

func (r *Reader) lang() string {
	if l := r.Getenv("LANG"); langName.MatchString(l) {
		return l
	}
	return ""
}

var proxyNames = []string{"http_proxy", "https_proxy", "no_proxy"}

// proxies are the variables in both spellings, as programs disagree.
func (r *Reader) proxies() (env []string) {
	for _, name := range proxyNames {
		upper, value := strings.ToUpper(name), r.Proxy
		switch {
		case r.Proxy == "host":
			if value = r.Getenv(name); value == "" {
				value = r.Getenv(upper)
			}
		case name == "no_proxy":
			value = ""
		}
		if value != "" {
			env = append(env, name+"="+value, upper+"="+value)
		}
	}
	return env
}

// authorities reads certificates, and makes sure that nothing else leaves this host.
func authorities(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	bad := func(format string, args ...any) error {
		return banger.Errorf(banger.CodeInvalid, "guest_ca = %q in config.toml: "+format, append([]any{path}, args...)...)
	}
	rest, err := bounded(path, maxCA)
	if err != nil {
		return "", bad("%w", err)
	}
	var all strings.Builder
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", bad("it has a %.40q, and guests get certificates alone", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", bad("a certificate can't be read: %w", err)
		}
		all.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	if all.Len() == 0 {
		return "", bad("it has no certificate")
	}
	return all.String(), nil
}

// bounded reads a file of at most so many bytes.
func bounded(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > most {
		err = banger.Errorf(banger.CodeInvalid, "%s is larger than %d bytes", path, most)
	}
	return text, err
}
