// Package account finds the users of a guest in its own files, and says what they may and
// what their environment is.
//
// It knows nothing of what is run as them.
package account

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Account is the user that a command runs as.
type Account struct {
	Name, Home, Shell string
	UID, GID          uint32
	Groups            []uint32
}

// maxAccountFile bounds what is read of the guest's passwd(5) and group(5).
const maxAccountFile = 8 << 20

// unchanged is the number that no user and no group can have: a process that becomes it
// stays who it is (setresuid(2)).
const unchanged = math.MaxUint32

// Lookup finds an account in the guest's own files: "", "name", "uid",
// "name:group", "uid:gid". A number need not be listed: such a user has its
// number as group, "/" as home. Without a passwd file there still is root.
func Lookup(root, who string) (Account, error) {
	name, group, withGroup := strings.Cut(who, ":")
	if name == "" {
		name = strconv.Itoa(os.Getuid())
	}
	a, err := findUser(root+"/etc/passwd", name)
	if err != nil {
		return Account{}, err
	}
	err = eachLine(root+"/etc/group", 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return true
		}
		if withGroup && f[0] == group {
			a.GID, withGroup = uint32(gid), false
		}
		for _, member := range strings.Split(f[3], ",") {
			if member == a.Name {
				a.Groups = append(a.Groups, uint32(gid))
				break
			}
		}
		return true
	})
	if err != nil {
		return Account{}, err
	}
	if withGroup {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			return Account{}, fmt.Errorf("no group %q in this image", group)
		}
		a.GID = uint32(gid)
	}
	if a.UID == unchanged || a.GID == unchanged || slices.Contains(a.Groups, unchanged) {
		return Account{}, fmt.Errorf("%q is nobody: the number %d means \"unchanged\" to the kernel", who, uint32(unchanged))
	}
	a.Groups = append(a.Groups, a.GID)
	return a, nil
}

func findUser(file, name string) (Account, error) {
	number, numErr := strconv.ParseUint(name, 10, 32)
	var a Account
	found := false
	err := eachLine(file, 7, func(f []string) bool {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || (f[0] != name && (numErr != nil || uid != number)) {
			return true
		}
		a = Account{Name: f[0], Home: f[5], Shell: f[6], UID: uint32(uid), GID: uint32(gid)}
		found = true
		return f[0] != name && numErr == nil // a name that looks like a number is a name
	})
	switch {
	case err != nil:
		return Account{}, err
	case found:
	case name == "root" || (numErr == nil && number == 0):
		a = Account{Name: "root", Home: "/root"}
	case numErr == nil:
		a = Account{Name: name, Home: "/", UID: uint32(number), GID: uint32(number)}
	default:
		return Account{}, fmt.Errorf("no user %q in this image", name)
	}
	if a.Shell == "" {
		a.Shell = "/bin/sh"
	}
	if !strings.HasPrefix(a.Home, "/") {
		a.Home = "/"
	}
	return a, nil
}

// eachLine calls f with the colon-separated fields of every line that has at
// least n of them, until f returns false. A missing file is an empty one.
func eachLine(file string, n int, f func([]string) bool) error {
	// O_NONBLOCK: an image may have put a FIFO there.
	r, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if st, err := r.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", file)
	}
	lines := bufio.NewScanner(io.LimitReader(r, maxAccountFile))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); len(fields) >= n && !f(fields) {
			return nil
		}
	}
	return lines.Err()
}

// Environ is the account's login environment with extra settings on top; the
// last setting of a name counts.
func (a Account) Environ(term string, extra []string) []string {
	path := "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
	if a.UID == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := []string{"HOME=" + a.Home, "USER=" + a.Name, "LOGNAME=" + a.Name, "SHELL=" + a.Shell, "PATH=" + path, "LANG=C.UTF-8"}
	if term != "" {
		env = append(env, "TERM="+term)
	}
	at := make(map[string]int, len(env)+len(extra))
	out := env[:0:0]
	for _, kv := range append(env, extra...) {
		key, _, _ := strings.Cut(kv, "=")
		if i, ok := at[key]; ok {
			out[i] = kv
			continue
		}
		at[key] = len(out)
		out = append(out, kv)
	}
	return out
}

// MayExecute reports whether the account may execute a file.
func (a Account) MayExecute(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	mode := st.Mode().Perm()
	switch {
	case !ok || a.UID == 0:
		return mode&0o111 != 0
	case sys.Uid == a.UID:
		return mode&0o100 != 0
	case sys.Gid == a.GID || slices.Contains(a.Groups, sys.Gid):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
