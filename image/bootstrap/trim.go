package bootstrap

import (
	"archive/tar"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// trimmer copies the configured root. It leaves out what the image shouldn't have: files
// of the running guest, traces of this build, and caches.
type trimmer struct {
	mounts []string        // without a slash in front
	dirs   map[string]bool // directories of packages
	date   time.Time       // files get no later time
}

// once are files that must differ between machines: each VM gets or makes its own.
var once = []string{
	"etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/machine-id", "etc/mtab", "var/lib/dbus/machine-id",
	"var/lib/systemd/random-seed", "var/cache/ldconfig/aux-cache",
	"var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/triggers/Lock", "var/lib/dpkg/status-old", "var/lib/dpkg/available-old",
	"var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old",
	"var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old", "var/cache/debconf/passwords.dat-old",
	"var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/log/fontconfig.log",
	"etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock",
}

// below are directories in which only directories of packages stay.
var below = []string{"var/lib/apt/lists/", "var/cache/apt/", "var/log/apt/", "var/log/journal/", "run/", "tmp/", "var/tmp/", "proc/", "sys/", "dev/", "banger/"}

// live are the directories that the running guest mounts something on, with the
// modes base-files gives them.
var live = map[string]int64{"dev": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777}

func (t *trimmer) drops(name string, dir bool) bool {
	if slices.Contains(once, name) || name == "banger" {
		return true
	}
	for _, b := range below {
		if strings.HasPrefix(name, b) {
			return !dir || !t.dirs[name]
		}
	}
	// Each VM must have host keys of its own.
	if path.Dir(name) == "etc/ssh" && strings.HasPrefix(path.Base(name), "ssh_host_") {
		return true
	}
	for _, m := range t.mounts {
		m = merged(m)
		// What the guest mounted, and the directories made for mounting it.
		if strings.HasPrefix(name, m+"/") || (name == m || dir && strings.HasPrefix(m, name+"/")) && !t.dirs[name] {
			return true
		}
	}
	return false
}

// copy reads the guest's tar and writes the image's.
func (t *trimmer) copy(w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name, err := inside(h.Name)
		if err != nil {
			return err
		}
		if t.drops(name, h.Typeflag == tar.TypeDir) {
			continue
		}
		h.Name = name
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			if h.Linkname, err = inside(h.Linkname); err != nil {
				return err
			}
		}
		// With times of the build, every build would give another image.
		h.Format, h.AccessTime, h.ChangeTime = tar.FormatPAX, time.Time{}, time.Time{}
		for _, key := range []string{"mtime", "atime", "ctime"} {
			delete(h.PAXRecords, key)
		}
		if h.ModTime.After(t.date) {
			h.ModTime = t.date
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.Copy(out, in); err != nil {
				return err
			}
		}
	}
	for _, name := range sorted(live) {
		if err := out.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: live[name], ModTime: t.date, Format: tar.FormatPAX}); err != nil {
			return err
		}
	}
	// machine-id(5): empty means "to be made at the first boot".
	if err := out.WriteHeader(&tar.Header{Name: "etc/machine-id", Typeflag: tar.TypeReg, Mode: 0o444, ModTime: t.date, Format: tar.FormatPAX}); err != nil {
		return err
	}
	return out.Close()
}
