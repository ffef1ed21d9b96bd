package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that a command runs as.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// maxAccountFile bounds what is read of the guest's passwd(5) and group(5).
const maxAccountFile = 8 << 20

// lookup finds an account in the guest's own files: "", "name", "uid",
// "name:group", "uid:gid". A number need not be listed: such a user has its
// number as group, "/" as home. Without a passwd file there still is root.
func lookup(root, who string) (account, error) {
	name, group, withGroup := strings.Cut(who, ":")
	if name == "" {
		name = strconv.Itoa(os.Getuid())
	}
	a, err := findUser(root+"/etc/passwd", name)
	if err != nil {
		return account{}, err
	}
	err = eachLine(root+"/etc/group", 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return true
		}
		if withGroup && f[0] == group {
			a.gid, withGroup = uint32(gid), false
		}
		for _, member := range strings.Split(f[3], ",") {
			if member == a.name {
				a.groups = append(a.groups, uint32(gid))
				break
			}
		}
		return true
	})
	if err != nil {
		return account{}, err
	}
	if withGroup {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("no group %q in this image", group)
		}
		a.gid = uint32(gid)
	}
	a.groups = append(a.groups, a.gid)
	return a, nil
}

func findUser(file, name string) (account, error) {
	number, numErr := strconv.ParseUint(name, 10, 32)
	var a account
	found := false
	err := eachLine(file, 7, func(f []string) bool {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || (f[0] != name && (numErr != nil || uid != number)) {
			return true
		}
		a = account{name: f[0], home: f[5], shell: f[6], uid: uint32(uid), gid: uint32(gid)}
		found = true
		return f[0] != name && numErr == nil // a name that looks like a number is a name
	})
	switch {
	case err != nil:
		return account{}, err
	case found:
	case name == "root" || (numErr == nil && number == 0):
		a = account{name: "root", home: "/root"}
	case numErr == nil:
		a = account{name: name, home: "/", uid: uint32(number), gid: uint32(number)}
	default:
		return account{}, fmt.Errorf("no user %q in this image", name)
	}
	if a.shell == "" {
		a.shell = "/bin/sh"
	}
	if !strings.HasPrefix(a.home, "/") {
		a.home = "/"
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

// environ is the account's login environment with extra settings on top; the
// last setting of a name counts.
func (a account) environ(term string, extra []string) []string {
	path := "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
	if a.uid == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := []string{"HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name, "SHELL=" + a.shell, "PATH=" + path, "LANG=C.UTF-8"}
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
