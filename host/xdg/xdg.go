// Package xdg says where one user's files go, by the XDG Base Directory Specification.
// It makes those directories and records which ones it made. It doesn't read the
// environment: the caller passes it in.
package xdg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Dirs are banger's directories for one user, all absolute.
type Dirs struct {
	State  string // database, VMs, daemon log and lock
	Data   string // images, kernels, bases of disks: can be made again, but that takes time
	Cache  string // downloads
	Config string // config.toml
	Socket string // the daemon's socket
}

// Of returns the directories for an environment. The socket is in the state directory,
// not in the runtime directory: cron and su have none of those, so they would not find
// the daemon that a login shell started, and a logout removes it.
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
	state := base("XDG_STATE_HOME", ".local/state")
	return Dirs{
		State:  state,
		Data:   base("XDG_DATA_HOME", ".local/share"),
		Cache:  base("XDG_CACHE_HOME", ".cache"),
		Config: base("XDG_CONFIG_HOME", ".config"),
		Socket: filepath.Join(state, "bangerd.sock"),
	}, nil
}

// madeFile is a file in the state directory. It lists the directories above ours that
// we made, so that they can be removed again.
const madeFile = "made-directories"

// Make makes State, Data and Cache, and records the directories above them that it made.
func (d Dirs) Make() error {
	var made []string
	for _, dir := range []string{d.State, d.Data, d.Cache} {
		for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
			if _, err := os.Lstat(up); err == nil || up == filepath.Dir(up) {
				break
			}
			made = append(made, up)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if uid, ok := owner(dir); ok && uid != os.Getuid() {
			return fmt.Errorf("%s belongs to user %d, not to user %d: it isn't used", dir, uid, os.Getuid())
		}
	}
	if len(made) == 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(d.State, madeFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(made, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// Made returns the directories above ours that Make made, deepest first.
func (d Dirs) Made() []string {
	data, err := os.ReadFile(filepath.Join(d.State, madeFile))
	if err != nil {
		return nil
	}
	list := slices.Sorted(strings.SplitSeq(strings.TrimSpace(string(data)), "\n"))
	slices.Reverse(list) // deepest first: a directory sorts before what is in it
	return slices.Compact(list)
}

// Foreign returns State, or the nearest directory above it that exists, and its owner.
// foreign reports whether that is another user.
func (d Dirs) Foreign() (dir string, uid int, foreign bool) {
	for dir = d.State; ; dir = filepath.Dir(dir) {
		if uid, ok := owner(dir); ok {
			return dir, uid, uid != os.Getuid()
		}
		if dir == filepath.Dir(dir) {
			return dir, 0, false
		}
	}
}

func owner(path string) (uid int, ok bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
