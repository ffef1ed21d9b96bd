// Package xdg says where one user's files go, after the XDG Base Directory
// Specification. It owns that mapping and nothing else: it makes no directory,
// and the environment is handed to it.
package xdg

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Dirs are banger's directories for one user, all absolute.
type Dirs struct {
	State  string // database, VMs, daemon log and lock
	Data   string // images, kernels, disk template: can be made again, at a price
	Cache  string // downloads
	Config string // config.toml
	Socket string // the daemon's socket
}

// Of maps an environment to the directories. The socket is in the runtime
// directory when that exists and is the user's own, else beside the state: a
// program started by cron or sudo has no runtime directory.
func Of(getenv func(string) string) (Dirs, error) {
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return Dirs{}, fmt.Errorf("HOME is %q: an absolute directory is needed to keep files in", home)
	}
	base := func(key, fallback string) string {
		dir := getenv(key)
		if !filepath.IsAbs(dir) { // "All paths … must be absolute. If … relative … ignore it"
			dir = filepath.Join(home, fallback)
		}
		return filepath.Join(dir, "banger")
	}
	d := Dirs{
		State:  base("XDG_STATE_HOME", ".local/state"),
		Data:   base("XDG_DATA_HOME", ".local/share"),
		Cache:  base("XDG_CACHE_HOME", ".cache"),
		Config: base("XDG_CONFIG_HOME", ".config"),
	}
	d.Socket = filepath.Join(d.State, "bangerd.sock")
	if run := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) && private(run) {
		d.Socket = filepath.Join(run, "banger", "bangerd.sock")
	}
	return d, nil
}

// private reports whether dir exists, is ours and closed to others.
func private(dir string) bool {
	fi, err := os.Stat(dir)
	if err != nil || !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
