// Package jail is the room in which a VMM runs that has no jailer of its own: namespaces
// without any way out, an empty root with the few files that the VMM needs, no capabilities,
// one list of the system calls that it may make, limits on what it may use up. Whoever breaks
// the VMM has that room, and nothing of the host or of other VMs.
//
// Its first process is ours (cmd/banger-jail). It starts the VMM, keeps the host's ends of what leads
// into the room, hands them to each new shim, and writes down how the VMM ended. When it dies,
// all in the room die with it.
//
// It owns what a jail is made of and the verdict whether one stands on this host. It knows nothing of
// hypervisors but which system calls they need, and nothing of what a VM is for.
package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
	"banger/host/unixsock"
)

// The files of a jail in its VM's directory. All are 0600.
const (
	SocketFile = "jail.sock" // where its first process listens
	EndFile    = "jail.end"  // an End, once the VMM has ended
)

// Spec is all that one jail is. It is plain data.
type Spec struct {
	Dir         string   `json:"dir"`                    // the VM's directory on the host, absolute
	Name        string   `json:"name"`                   // how the first process is called on its command line, see machine.Name
	Argv        []string `json:"argv"`                   // the VMM; argv[0] is an absolute path in the jail
	Env         []string `json:"env,omitempty"`          // all of the VMM's environment
	Files       []File   `json:"files"`                  // what is in the root, beside /tmp
	Limits      Limits   `json:"limits"`                 //
	CPU         *int     `json:"cpu,omitempty"`          // the one processor that the VMM runs on; nil: any
	NoRandomize bool     `json:"no_randomize,omitempty"` // the VMM's addresses are the same each time (personality(2))
	Once        bool     `json:"once,omitempty"`         // argv[0] is gone from the root once it runs: nothing can start it again
	Filter      string   `json:"filter"`                 // the system calls: a name of Filters
	User        int      `json:"user,omitempty"`         // for a daemon of root: the user and group id in the jail
	Listen      []string `json:"listen,omitempty"`       // names in Dir of stream sockets that the first process listens on
	Inside      []string `json:"inside,omitempty"`       // absolute paths in the jail of such sockets, for the VMM
	Pairs       []Pair   `json:"pairs,omitempty"`        // the VMM has its end of the first as descriptor 3, of the next as 4, and so on
	Services    []string `json:"services,omitempty"`     // what the first process does for the VMM: names of Main's
}

// File is one file of the host in the jail. It may be a device, but no directory.
type File struct {
	Host     string `json:"host"` // absolute
	At       string `json:"at"`   // absolute path in the jail
	Writable bool   `json:"writable,omitempty"`
}

// Pair is a pair of connected sockets, one end of which is the VMM's. Take returns the other.
type Pair struct {
	Name string `json:"name"`
	Type string `json:"type"` // "stream", "dgram", "seqpacket"
}

// Limits bound what the VMM can use up. A limit of 0 has the value said here.
type Limits struct {
	Scratch   int64 `json:"scratch"`   // bytes of /tmp, a tmpfs from which programs can be run; 0: there is none
	FileSize  int64 `json:"file_size"` // bytes up to which it may write any file; 0: Scratch
	Data      int64 `json:"data"`      // bytes that a process of it may have for itself alone; 0: 256 MiB
	Processes int   `json:"processes"` // processes and threads; 0: 64
	Files     int   `json:"files"`     // descriptors of a process; 0: 256
}

// End says how a VMM ended, as its parent saw it.
type End struct {
	Status int       `json:"status"`           // its exit status; -1 if a signal ended it
	Signal int       `json:"signal,omitempty"` // that signal
	Asked  bool      `json:"asked,omitempty"`  // somebody ended it, by SIGTERM to the first process
	Detail string    `json:"detail,omitempty"` // why the first process ended it
	Time   time.Time `json:"time"`
}

// ExitStatus is the first process's own after such an end.
func (e End) ExitStatus() int {
	switch {
	case e.Asked:
		return 128 + int(unix.SIGTERM)
	case e.Signal != 0:
		return 128 + e.Signal
	}
	return e.Status
}

// WaitStatus is what the parent of the VMM would have seen (wait(2)), if that had been there. If
// the first process ended it, that is an error of the VMM's.
func (e End) WaitStatus() syscall.WaitStatus {
	switch {
	case e.Asked:
		return syscall.WaitStatus(unix.SIGTERM)
	case e.Detail != "":
		return 1 << 8
	case e.Signal != 0:
		return syscall.WaitStatus(e.Signal)
	}
	return syscall.WaitStatus(e.Status << 8)
}

// Ended returns how the VMM of the VM in dir ended. It hasn't, or nobody saw how, if seen is false.
func Ended(dir string) (end End, seen bool, err error) {
	f, err := os.Open(filepath.Join(dir, EndFile))
	if errors.Is(err, fs.ErrNotExist) {
		return End{}, false, nil
	}
	if err != nil {
		return End{}, false, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxLine))
	if err != nil || json.Unmarshal(data, &end) != nil { // the first process was killed before it had written all
		return End{}, false, err
	}
	return end, true, nil
}

// What the first process has open. Listeners follow, in the order of Spec.Listen, then
// the Files, as mounts, if the daemon is root.
const (
	specFD = 3 + iota
	statusFD
	selfFD
	endFD
	controlFD
	firstListenFD
)

const (
	maxLine   = 64 << 10         // bytes of a Spec, an End or an answer
	startWait = 20 * time.Second // for the VMM to be started, on a busy host
)

// namespaces are all that a jail has of its own.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// Command returns a command that starts a jail with its VMM; program is the path of banger-jail.
// The command's output is that of both. Call started once it runs: it returns when the VMM was
// started, or else with what failed. Whoever calls it ends the command then.
func Command(program string, s Spec) (cmd *exec.Cmd, started func() error, err error) {
	if os.Getuid() != 0 {
		s.User = 0
	}
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	h := &handover{}
	defer func() {
		if err != nil {
			h.close()
			err = fmt.Errorf("make the jail: %w", err)
		}
	}()
	if err := h.open(program, s); err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(fmt.Sprintf("/proc/self/fd/%d", selfFD))
	cmd.Args = []string{"banger-jail", s.Dir, s.Name}
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, h.theirs
	cmd.SysProcAttr = attributes(s)
	return cmd, func() error { return h.start(s) }, nil
}

// attributes are those of the first process. The user namespace knows one user, and
// that user is nobody's else. Its first process may build the room: it loses what that takes before
// the VMM runs.
func attributes(s Spec) *syscall.SysProcAttr {
	uid, gid := os.Getuid(), os.Getgid()
	a := &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true, AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}}
	if uid == 0 {
		uid, gid = s.User, s.User
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		a.GidMappingsEnableSetgroups = true
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	return a
}

func (s Spec) check() error {
	wrong := func(format string, args ...any) error {
		return banger.Errorf(banger.CodeInvalid, "jail: "+format, args...)
	}
	inside := func(path string) bool {
		return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/"
	}
	switch {
	case !filepath.IsAbs(s.Dir):
		return wrong("directory %q isn't absolute", s.Dir)
	case len(s.Argv) == 0 || !inside(s.Argv[0]):
		return wrong("program %q isn't a clean absolute path", s.Argv)
	case profiles[s.Filter].calls == nil:
		return wrong("there is no filter %q", s.Filter)
	case os.Getuid() == 0 && s.User <= 0:
		return wrong("a daemon of root needs a user id for it")
	}
	for _, f := range s.Files {
		if !filepath.IsAbs(f.Host) || !inside(f.At) {
			return wrong("file %q at %q: want clean absolute paths", f.Host, f.At)
		}
	}
	for _, path := range s.Inside {
		if !inside(path) {
			return wrong("socket at %q: want a clean absolute path", path)
		}
	}
	for _, name := range s.Listen {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return wrong("socket %q isn't a file's name", name)
		}
	}
	for _, p := range s.Pairs {
		if socketTypes[p.Type] == 0 {
			return wrong("pair %s: there is no type %q", p.Name, p.Type)
		}
	}
	return nil
}

// handover is what the first process is given.
type handover struct {
	theirs       []*os.File // its descriptors from 3 on
	spec, status *os.File   // our ends of the first two
}

func (h *handover) close() {
	for _, f := range append(h.theirs, h.spec, h.status) {
		if f != nil {
			_ = f.Close() // nothing is lost
		}
	}
}

func (h *handover) open(program string, s Spec) error {
	give := func(f *os.File, err error) error {
		if err == nil {
			h.theirs = append(h.theirs, f)
		}
		return err
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return err
	}
	h.spec, h.theirs = specW, []*os.File{specR}
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return err
	}
	h.status, h.theirs = statusR, append(h.theirs, statusW)
	if err := give(os.Open(program)); err != nil {
		return err
	}
	names := append([]string{SocketFile}, s.Listen...)
	for _, name := range append(names, EndFile) {
		if err := hostfs.Remove(filepath.Join(s.Dir, name)); err != nil {
			return err
		}
	}
	if err := give(os.OpenFile(filepath.Join(s.Dir, EndFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)); err != nil {
		return err
	}
	for _, name := range names {
		if err := give(bind(filepath.Join(s.Dir, name))); err != nil {
			return err
		}
	}
	if os.Getuid() != 0 {
		return nil
	}
	// The jail's user can't go through root's directories: it is given mounts.
	for _, f := range s.Files {
		if err := f.admit(s.User); err != nil {
			return err
		}
		if err := give(f.tree()); err != nil {
			return err
		}
	}
	return nil
}

// start hands over the Spec, and waits until the VMM was started.
func (h *handover) start(s Spec) error {
	for _, f := range h.theirs {
		_ = f.Close() // the child has its own
	}
	h.theirs = nil
	defer h.close()
	data, err := json.Marshal(s)
	if err == nil {
		_, err = h.spec.Write(data)
	}
	if err = errors.Join(err, h.spec.Close(), h.status.SetReadDeadline(time.Now().Add(startWait))); err != nil {
		return fmt.Errorf("tell the jail what it is: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(h.status, maxLine))
	switch {
	case err != nil:
		return fmt.Errorf("wait for the jail: %w", err)
	case string(said) == ready:
		return nil
	case len(said) == 0:
		return errors.New("the jail's first process ended and says nothing")
	}
	var r refusal
	if err := json.Unmarshal(said, &r); err != nil {
		return fmt.Errorf("the jail's first process says %.100q: %w", said, err)
	}
	return &r
}

// refusal is why a jail wasn't made, as its first process says.
type refusal struct {
	Text  string     `json:"error"`
	Errno unix.Errno `json:"errno,omitempty"` // what the kernel refused with; 0: it wasn't the kernel
}

func (r *refusal) Error() string { return "jail: " + r.Text }

// Unwrap lets callers tell what the kernel allows nobody here from other errors.
func (r *refusal) Unwrap() error {
	if r.Errno == 0 {
		return nil
	}
	return r.Errno
}

// ready is what the first process says when the VMM runs.
const ready = "ready\n"

// admit lets the user of a jail open a file of root's. Others may read it, and run it if root may,
// but can't enter the directories above it.
func (f File) admit(user int) error {
	st, err := os.Stat(f.Host)
	if err != nil {
		return err
	}
	if f.Writable {
		return os.Chown(f.Host, user, -1)
	}
	has := st.Mode().Perm()
	needs := has | 0o004
	if has&0o100 != 0 {
		needs |= 0o001
	}
	if needs == has {
		return nil
	}
	return os.Chmod(f.Host, needs)
}

// bind makes a stream socket at path. Nobody listens on it yet: who does is recorded by the kernel as
// its owner (SO_PEERCRED).
func bind(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	short, done, err := unixsock.Short(path)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: short})
		done()
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "bind", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// listen makes a listener of a bound socket. It closes f.
func listen(f *os.File) (*net.UnixListener, error) {
	defer func() { _ = f.Close() }() // FileListener duplicates
	if err := unix.Listen(int(f.Fd()), backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no Unix socket", f.Name()), l.Close())
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

const backlog = 16

var socketTypes = map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}
