package jail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"banger/host/proc"
	"banger/vmm/jail/attack"
	"banger/vmm/uid"
)

// Verdict says whether a jail stands on this host. It is valid for one boot and one banger-jail.
type Verdict struct {
	BootID   string `json:"boot_id"`
	Program  string `json:"program"` // banger-jail: its path, size and time
	Stands   bool   `json:"stands"`
	Detail   string `json:"detail"`         // the observed fact
	Hint     string `json:"hint,omitempty"` // what a user could do
	Landlock int    `json:"landlock"`       // the version that the kernel has; 0: none, and one wall less
}

// Stands returns the verdict on a jail made by program, the path of banger-jail. It is kept in the file at path: a
// jail that stood does so until the next boot. Else it is built and attacked, which takes a second. An
// error means that nothing could be found out.
func Stands(ctx context.Context, program, path string) (Verdict, error) {
	boot, err := proc.BootID()
	if err != nil {
		return Verdict{}, err
	}
	st, err := os.Stat(program)
	if err != nil {
		return Verdict{}, err
	}
	of := fmt.Sprintf("%s %d %d", program, st.Size(), st.ModTime().UnixNano())
	var v Verdict
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &v) == nil && v.BootID == boot && v.Program == of && v.Stands {
		return v, nil
	}
	if v, _, err = Judge(ctx, program, UML); err != nil {
		return Verdict{}, fmt.Errorf("try a jail: %w", err)
	}
	v.BootID, v.Program = boot, of
	if data, err := json.Marshal(v); err == nil && os.MkdirAll(filepath.Dir(path), 0o700) == nil {
		_ = os.WriteFile(path, data, 0o600) // half a file doesn't parse; without one the next call judges again
	}
	return v, nil
}

// What an attacked jail has: little, as the attack uses it all up.
var attacked = Limits{Scratch: 8 << 20, FileSize: 4 << 20, Data: 256 << 20, Processes: 64, Files: 256}

// Judge builds a jail with a filter, and a broken kernel in the VMM's place. It returns what that tried, too.
func Judge(ctx context.Context, program, filter string) (Verdict, []attack.Result, error) {
	return judgeWith(ctx, program, filter, judgeName, nil)
}

// judgeWith calls change, which a test may use to make holes, with the jail and then with its command.
func judgeWith(ctx context.Context, program, filter, name string, change func(*Spec, *exec.Cmd, attack.Bait)) (Verdict, []attack.Result, error) {
	v := Verdict{Landlock: landlockVersion()}
	_ = Trials{}.RemoveObjects(ctx, "") // of killed trials; what fails, gc says
	dir, over, err := openTrial()
	if err != nil {
		return v, nil, err
	}
	defer over()
	b, err := layBait(dir)
	if err != nil {
		return v, nil, err
	}
	defer b.close()
	b.Allowed = attack.Bounds{
		Calls: profiles[filter].numbers(), Descriptors: []int{0, 1, 2, 3},
		Processes: attacked.Processes, Files: attacked.Files, Scratch: attacked.Scratch, FileSize: attacked.FileSize, Data: attacked.Data,
	}
	said, err := b.attack(ctx, program, filter, dir, name, change)
	if ctx.Err() != nil {
		return v, nil, ctx.Err()
	}
	results, done := parse(said)
	holes := slices.DeleteFunc(append(slices.Clone(results), b.traces()...), func(r attack.Result) bool { return !r.Hole })
	switch {
	case len(holes) > 0:
		var all []string
		for _, h := range holes {
			all = append(all, fmt.Sprintf("%s: %s: %s", h.Area, h.What, h.Got))
		}
		v.Detail = "a jail leaves holes here: " + strings.Join(all, "; ")
	case err != nil:
		v.Detail, v.Hint = err.Error(), hint(err)
	case !done:
		v.Detail = fmt.Sprintf("the attack on a jail ended early, after %d attempts: %.300q", len(results), said)
	default:
		v.Stands, v.Detail = true, fmt.Sprintf("%d ways out of a jail were tried, all are closed", len(results))
	}
	return v, results, nil
}

// hint says what may be wrong with a host where no jail can be made.
func hint(err error) string {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC) {
		return "this host lets this user make no namespaces: see user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns (sysctl), or the container that you are in"
	}
	return ""
}

func landlockVersion() int {
	v, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return v
}

// bait is what is laid out for the attack.
type bait struct {
	attack.Bait
	listeners []*net.UnixListener
	tcp       *net.TCPListener
	attached  []byte // keeps shared memory there
}

const baited = "nobody may read this"

func layBait(dir string) (b *bait, err error) {
	b = &bait{Bait: attack.Bait{
		PID: os.Getpid(), File: filepath.Join(dir, "secret"), Socket: filepath.Join(dir, "sock"), Abstract: filepath.Base(dir),
	}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := os.WriteFile(b.File, []byte(baited), 0o666); err != nil {
		return nil, err
	}
	// For a jail of root's, too, only walls may be in the way.
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(b.File, 0o666)); err != nil {
		return nil, err
	}
	for _, name := range []string{b.Socket, "@" + b.Abstract} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			return nil, err
		}
		b.listeners = append(b.listeners, l)
	}
	if err := os.Chmod(b.Socket, 0o777); err != nil {
		return nil, err
	}
	if b.tcp, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, err
	}
	b.Port = b.tcp.Addr().(*net.TCPAddr).Port
	// A host without these has nothing that could be taken.
	if id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o666); err == nil {
		if attached, err := unix.SysvShmAttach(id, 0, 0); err == nil {
			b.Memory, b.attached = id, attached
		}
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // it goes when nobody has it attached, whoever is killed
	}
	if key, err := unix.AddKey("user", filepath.Base(dir), []byte(baited), unix.KEY_SPEC_USER_KEYRING); err == nil {
		b.Key = key
		_ = unix.KeyctlSetperm(key, 0x3f3f3f3f) // for all
	}
	return b, nil
}

func (b *bait) close() {
	for _, l := range b.listeners {
		_ = l.Close()
	}
	if b.tcp != nil {
		_ = b.tcp.Close()
	}
	if b.attached != nil {
		_ = unix.SysvShmDetach(b.attached)
	}
	if b.Key != 0 {
		_, _ = unix.KeyctlInt(unix.KEYCTL_INVALIDATE, b.Key, 0, 0, 0)
	}
}

// attack runs the broken kernel and returns what it said.
func (b *bait) attack(ctx context.Context, program, filter, dir, name string, change func(*Spec, *exec.Cmd, attack.Bait)) ([]byte, error) {
	if change == nil {
		change = func(*Spec, *exec.Cmd, attack.Bait) {}
	}
	arg, err := b.Describe()
	if err != nil {
		return nil, err
	}
	s := Spec{
		Dir: dir, Name: name, Argv: []string{"/attack", attack.Arg, arg}, Files: []File{{Host: program, At: "/attack"}},
		Limits: attacked, Filter: filter, Pairs: []Pair{{"pair", "stream"}},
	}
	if os.Getuid() == 0 {
		if s.User, err = uid.Take(filepath.Base(dir), dir); err != nil {
			return nil, err
		}
		defer func() { _ = uid.Free(s.User, dir) }() // its name is gone after the next boot
	}
	change(&s, nil, b.Bait)
	cmd, started, err := Command(program, s)
	if err != nil {
		return nil, err
	}
	change(&s, cmd, b.Bait)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, maxSaid}, &limited{&out, maxSaid}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	ended := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer ended()
	over := time.AfterFunc(attackWait, func() { _ = cmd.Process.Kill() })
	defer over.Stop()
	if err := started(); err != nil {
		_ = cmd.Process.Kill() // it ends by itself, or has
		_ = cmd.Wait()         // with a status that says nothing more
		return nil, err
	}
	_ = cmd.Wait() // how the attack ended is in what it said
	return out.Bytes(), nil
}

const (
	judgeName  = "banger-judged"
	maxSaid    = 1 << 20
	attackWait = 30 * time.Second // on a busy host: it takes less than one
)

// limited drops what is too much.
type limited struct {
	to   *bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.to.Len()+len(p) <= l.most {
		l.to.Write(p)
	}
	return len(p), nil
}

// parse reads results. Done says that all is there.
func parse(said []byte) (list []attack.Result, done bool) {
	in := bufio.NewScanner(bytes.NewReader(said))
	in.Buffer(nil, maxSaid)
	for in.Scan() {
		var r attack.Result
		if json.Unmarshal(in.Bytes(), &r) != nil {
			continue // words of the jail's
		}
		if r.Area == attack.Done {
			return list, true
		}
		list = append(list, r)
	}
	return list, false
}

// traces are what the attack has left on the host.
func (b *bait) traces() (list []attack.Result) {
	found := func(what, got string) {
		list = append(list, attack.Result{Area: "the host", What: what, Got: got, Hole: true})
	}
	if data, err := os.ReadFile(b.File); string(data) != baited {
		found("a file", fmt.Sprintf("changed: %.40q, %v", data, err))
	}
	if _, err := os.Lstat(b.File + ".new"); err == nil {
		found("a directory", "has a new file")
	}
	for _, l := range b.listeners {
		if connected(l) {
			found("socket "+l.Addr().String(), "was connected to")
		}
	}
	if connected(b.tcp) {
		found("a port", "was connected to")
	}
	return list
}

// connected reports whether somebody waits to be accepted.
func connected(l interface {
	SetDeadline(time.Time) error
	Accept() (net.Conn, error)
}) bool {
	if l.SetDeadline(time.Now().Add(time.Millisecond)) != nil {
		return true
	}
	c, err := l.Accept()
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}
