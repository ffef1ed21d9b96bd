package jail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// Service does something for the VMM in the jail's first process. It is called when that has
// nothing left but its room, before the VMM is started. It returns at once; stop ends it.
type Service func(env Env) (stop func(), err error)

// Env is what a service has.
type Env struct {
	Spec   Spec
	Log    io.Writer                    // the VMM's, for people
	Fail   func(error)                  // ends the jail
	host   map[string]*net.UnixListener // by name
	inside map[string]*net.UnixListener // by path
}

// Listener returns the socket in the VM's directory of that name, nil if Spec.Listen hasn't it.
func (e Env) Listener(name string) *net.UnixListener { return e.host[name] }

// Inside returns the socket in the jail at that path, nil if Spec.Inside hasn't it.
func (e Env) Inside(path string) *net.UnixListener { return e.inside[path] }

// Main is banger-jail's process: `banger-jail DIR NAME` is the first process of a jail,
// `banger-jail --enter NAME` its child that becomes the VMM. It returns the exit status.
func Main(args []string, services map[string]Service) int {
	if len(args) > 0 && args[0] == enterArg {
		enter()
		return 1
	}
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: banger-jail DIR NAME, by banger-shim only")
		return 2
	}
	// A first process isn't ended by signals that it doesn't catch, but for those of its host.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	k := &first{status: os.NewFile(statusFD, "status"), end: os.NewFile(endFD, EndFile), failed: make(chan error, 1)}
	err := k.start(services)
	if err != nil {
		r := refusal{Text: err.Error()}
		_ = errors.As(err, &r.Errno)             // 0: no call of the kernel's
		_ = json.NewEncoder(k.status).Encode(&r) // the shim may have died
		return 1
	}
	_, _ = fmt.Fprint(k.status, ready)
	_ = k.status.Close()
	return k.wait(asked)
}

// first is the jail's first process.
type first struct {
	spec        Spec
	status, end *os.File
	room        room
	host        map[string]*net.UnixListener
	ends        map[string]int // the host's ends of Spec.Pairs: descriptors that nobody here reads
	vmm         int            // its process id in the jail
	failed      chan error     // a service can't go on
	stop        []func()
}

// start makes the room and starts the VMM in it.
func (k *first) start(services map[string]Service) error {
	in := os.NewFile(specFD, "spec")
	data, err := io.ReadAll(io.LimitReader(in, maxLine))
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	if err := json.Unmarshal(data, &k.spec); err != nil {
		return fmt.Errorf("what it is to be: %w", err)
	}
	control := os.NewFile(controlFD, SocketFile)
	k.host = map[string]*net.UnixListener{}
	at := firstListenFD
	var listeners, trees []*os.File
	for _, name := range k.spec.Listen {
		listeners = append(listeners, os.NewFile(uintptr(at), name))
		at++
	}
	if k.spec.User != 0 { // the daemon is root
		for _, f := range k.spec.Files {
			trees = append(trees, os.NewFile(uintptr(at), f.Host))
			at++
		}
	}
	if err := unix.Sethostname([]byte("jail")); err != nil {
		return fmt.Errorf("name the jail: %w", err)
	}
	if err := k.room.build(k.spec, trees); err != nil {
		return err
	}
	child, err := k.spawn()
	if err != nil {
		return err
	}
	defer child.close()
	if err := k.room.enter(); err != nil {
		return err
	}
	if err := confineSelf(); err != nil {
		return err
	}
	for i, name := range k.spec.Listen {
		if k.host[name], err = listen(listeners[i]); err != nil {
			return fmt.Errorf("socket %s: %w", name, err)
		}
	}
	l, err := listen(control)
	if err != nil {
		return fmt.Errorf("socket %s: %w", SocketFile, err)
	}
	if err := k.serve(services); err != nil {
		return err
	}
	if err := child.release(data); err != nil {
		return err
	}
	go k.answer(l)
	return nil
}

func (k *first) serve(services map[string]Service) error {
	env := Env{Spec: k.spec, Log: os.Stderr, host: k.host, inside: k.room.inside, Fail: func(err error) {
		select {
		case k.failed <- err:
		default: // one is enough
		}
	}}
	for _, name := range k.spec.Services {
		service := services[name]
		if service == nil {
			return fmt.Errorf("this banger-jail has no service %q", name)
		}
		stop, err := service(env)
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		if stop != nil {
			k.stop = append(k.stop, stop)
		}
	}
	return nil
}

// child is the process that becomes the VMM, as long as it waits for that.
type child struct{ spec, failed *os.File }

func (c child) close() { _, _ = c.spec.Close(), c.failed.Close() } // nothing is lost

// release lets it go on, and returns when it has become the VMM.
func (c child) release(spec []byte) error {
	_, err := c.spec.Write(spec)
	if err = errors.Join(err, c.spec.Close()); err != nil {
		return fmt.Errorf("start the VMM: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(c.failed, maxLine))
	if err != nil || len(said) > 0 {
		return fmt.Errorf("start the VMM: %w", errors.Join(err, errors.New(string(said))))
	}
	return nil
}

// spawn starts that process while the host's /proc, by which it is started, is still there. It waits, and
// the kernel takes it to the new root with us.
func (k *first) spawn() (c child, err error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return c, err
	}
	failedR, failedW, err := os.Pipe()
	if err != nil {
		return c, err
	}
	self := os.NewFile(selfFD, "banger-jail")
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, specR, failedW, self}
	k.ends = map[string]int{}
	for _, p := range k.spec.Pairs {
		fds, err := unix.Socketpair(unix.AF_UNIX, socketTypes[p.Type]|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return c, fmt.Errorf("pair %s: %w", p.Name, err)
		}
		if err := unix.SetNonblock(fds[0], true); err != nil { // as shims want it
			return c, fmt.Errorf("pair %s: %w", p.Name, err)
		}
		k.ends[p.Name] = fds[0]
		files = append(files, os.NewFile(uintptr(fds[1]), p.Name))
	}
	p, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", enterSelfFD), []string{"banger-jail", enterArg, k.spec.Name}, &os.ProcAttr{
		Dir: ".", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
	for _, f := range files[3:] {
		_ = f.Close() // the child has its own
	}
	if err != nil {
		return c, err
	}
	k.vmm = p.Pid
	return child{specW, failedR}, nil
}

// confineSelf takes from this process what building the room took.
func confineSelf() error {
	// Every thread has its own.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	header, none := noCapabilities()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	if err := noCore(); err != nil {
		return err
	}
	return profiles[keeper].load(seccomp.FilterFlagTSync)
}

func noCapabilities() (unix.CapUserHeader, [2]unix.CapUserData) {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
}

// wait returns the exit status of the jail when its VMM has ended, and has written down how.
func (k *first) wait(asked <-chan os.Signal) int {
	ended := make(chan End, 1)
	go func() { ended <- k.reap() }()
	var end End
	select {
	case end = <-ended:
	case <-asked:
		_ = unix.Kill(-1, unix.SIGKILL) // all but us; none: the VMM has just ended
		end = <-ended
		end.Asked = true
	case err := <-k.failed:
		_ = unix.Kill(-1, unix.SIGKILL)
		end = <-ended
		end.Detail = err.Error()
		fmt.Fprintln(os.Stderr, "jail:", err)
	}
	for _, stop := range k.stop {
		stop()
	}
	end.Time = time.Now()
	if err := k.record(end); err != nil {
		fmt.Fprintln(os.Stderr, "write down how the VMM ended:", err)
	}
	return end.ExitStatus()
}

func (k *first) record(end End) error {
	data, err := json.Marshal(end)
	if err == nil {
		_, err = k.end.Write(append(data, '\n'))
	}
	return errors.Join(err, k.end.Sync(), k.end.Close())
}

// reap waits for all that ends in the jail until that is the VMM.
func (k *first) reap() End {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return End{Status: -1, Detail: os.NewSyscallError("wait4", err).Error()}
		case pid == k.vmm && status.Signaled():
			return End{Status: -1, Signal: int(status.Signal())}
		case pid == k.vmm:
			return End{Status: status.ExitStatus()}
		}
	}
}

// What may be asked on the jail's socket: one line of JSON, answered by one, with
// a descriptor where there is one.
type question struct {
	Op   string `json:"op"` // "take"
	Name string `json:"name,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
}

const askWait = 10 * time.Second // for a question, and for its answer to be sent

// answer serves the host, one at a time.
func (k *first) answer(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			fmt.Fprintln(os.Stderr, "jail:", err)
			time.Sleep(time.Second) // out of descriptors
			continue
		}
		if err := k.reply(conn); err != nil {
			fmt.Fprintln(os.Stderr, "jail:", err)
		}
		_ = conn.Close() // said all, or couldn't
	}
}

func (k *first) reply(conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(askWait)); err != nil {
		return err
	}
	if err := outside(conn); err != nil {
		return err
	}
	buf := make([]byte, 4<<10)
	n, err := conn.Read(buf)
	if err == io.EOF {
		return nil // whoever only wanted to know who listens here
	}
	if err != nil {
		return err
	}
	var q question
	var rights []byte
	var a answer
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	err = json.Unmarshal(line, &q)
	end, ok := k.ends[q.Name]
	switch {
	case err != nil:
		a.Error = err.Error()
	case q.Op != "take":
		a.Error = fmt.Sprintf("unknown operation %q", q.Op)
	case !ok:
		a.Error = fmt.Sprintf("this jail has no %q", q.Name)
	default:
		rights = unix.UnixRights(end)
	}
	data, err := json.Marshal(a)
	if err == nil {
		_, _, err = conn.WriteMsgUnix(append(data, '\n'), rights, nil)
	}
	return err
}
