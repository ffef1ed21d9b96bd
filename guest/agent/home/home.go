// Package home gives a guest what it has of its host's user: a name and mail for git, time
// zone, language, proxies and certificates. It owns the files that say these. What the
// guest's own user wrote there stays. It knows nothing of commands or of the channel.
package home

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/guest"
)

// mark begins files that are made here, and so may be made anew.
const mark = "# from the host, made anew at each start of the VM unless this line is removed\n"

// certificates begins what is added to a list of authorities.
const certificates = "# authorities of the host that this VM runs on\n"

// Apply writes files below root, "/" in a guest. What can't be written is an error beside
// which all else is done.
func Apply(root string, h guest.Home) error {
	return errors.Join(gitIdentity(root, h), timeZone(root, h), authorities(root, h.Certificates))
}

// Environment returns the variables that commands get.
func Environment(root string, h guest.Home) []string {
	env := slices.Clone(h.Proxy)
	if h.Lang != "" && knows(root, h.Lang) {
		env = append(env, "LANG="+h.Lang)
	}
	return env
}

func gitIdentity(root string, h guest.Home) error {
	path := filepath.Join(root, "etc/gitconfig")
	if old, err := os.ReadFile(path); err == nil && !strings.HasPrefix(string(old), mark) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // somebody else's
	}
	text := ""
	for _, v := range []struct{ key, value string }{{"name", h.Name}, {"email", h.Mail}} {
		if v.value != "" {
			text += "\t" + v.key + " = \"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v.value) + "\"\n"
		}
	}
	if text == "" {
		return nil
	}
	return os.WriteFile(path, []byte(mark+"[user]\n"+text), 0o644)
}

// timeZone sets the zone where the guest has none, or UTC.
func timeZone(root string, h guest.Home) error {
	path := filepath.Join(root, "etc/localtime")
	if is, err := os.Readlink(path); err == nil {
		if !slices.Contains([]string{"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Universal", "Zulu"}, afterZoneinfo(is)) {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil // a file of somebody's
	}
	if h.Zone == "" || !filepath.IsLocal(h.Zone) {
		return nil
	}
	known := "/usr/share/zoneinfo/" + h.Zone
	_, err := os.Stat(filepath.Join(root, known))
	if err != nil && len(h.ZoneFile) == 0 {
		return nil
	}
	if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return rerr
	}
	if err != nil {
		return os.WriteFile(path, h.ZoneFile, 0o644)
	}
	if err := os.Symlink(known, path); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "etc/timezone"), []byte(h.Zone+"\n"), 0o644)
}

func afterZoneinfo(path string) string {
	_, name, _ := strings.Cut(path, "zoneinfo/")
	return name
}

// bundles are the files in which programs look for authorities.
var bundles = []string{"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"}

// authorities adds certificates to those that the guest's programs trust. Where
// update-ca-certificates(8) makes the list anew, it finds them, too.
func authorities(root, pem string) error {
	if pem == "" {
		return nil
	}
	own := filepath.Join(root, "usr/local/share/ca-certificates")
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(own, "banger-host.crt"), []byte(pem), 0o644)}
	added := certificates + pem
	for i, name := range bundles {
		path := filepath.Join(root, name)
		old, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && i > 0, err == nil && bytes.Contains(old, []byte(pem)):
			continue
		case errors.Is(err, fs.ErrNotExist):
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		case err == nil && len(old) > 0 && old[len(old)-1] != '\n':
			old = append(old, '\n')
		}
		if err == nil {
			err = os.WriteFile(path, append(old, added...), 0o644)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	return nil
}

// knows reports whether a guest's C library has a language.
func knows(root, lang string) bool {
	name, code, _ := strings.Cut(lang, ".")
	code = strings.ToLower(strings.ReplaceAll(code, "-", "")) // as localedef(1) writes it
	dir := name
	if code != "" {
		dir += "." + code
	}
	if !filepath.IsLocal(dir) {
		return false
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/locale", dir)); err == nil {
		return true
	}
	archive, err := os.ReadFile(filepath.Join(root, "usr/lib/locale/locale-archive"))
	return err == nil && bytes.Contains(archive, []byte("\x00"+dir+"\x00"))
}
