package boot

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/agent/renew"
)

// Init is PID 1 of the initramfs. It brings the kernel to the freeze point,
// starts the agent, waits until that has assembled the root, and becomes the
// image's init; where there is none, it stays and reaps. It doesn't return: if
// it can't go on, the kernel panics with its last words on the console.
func Init() {
	// Where the kernel's time ends and ours begins, for the console and for
	// benchmarks.
	fmt.Fprintln(os.Stderr, "banger-agent: the first line of /init")
	w := newStopwatch()
	if err := earlyMounts(); err != nil {
		die("mount", err)
	}
	if err := renew.OpenRandom(); err != nil {
		logf("random numbers: %v", err) // they will take their time
	}
	w.lap("init: mounts")
	if err := install(); err != nil {
		die("install the agent", err)
	}
	w.lap("init: install")
	// The default of 1024 open files is for programs that use select(2); what
	// systemd gives its services is the ceiling here too.
	limit := unix.Rlimit{Cur: 1024, Max: 524288}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		logf("limit of open files: %v", err)
	}
	supervise(stagesEnv + "=" + encodeStages(w.stages))
}

func die(what string, err error) {
	fmt.Fprintf(os.Stderr, "banger: init: %s: %v\n", what, err)
	logf("init: %s: %v", what, err)
	os.Exit(1)
}

// earlyMounts mounts what every guest has, with the options systemd would use:
// it takes over what it finds mounted.
func earlyMounts() error {
	const inert = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		data     string
	}{
		{"proc", "/proc", inert, ""},
		{"sysfs", "/sys", inert, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME, "mode=755,size=20%"},
		{"cgroup2", cgroupRoot, inert, "nsdelegate,memory_recursiveprot"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("%s: %w", m.at, err)
		}
	}
	if err := os.Mkdir(agentCgroup, 0o755); err != nil {
		logf("cgroup: %v", err) // the agent then shares its neighbour's
	}
	return nil
}

// install puts this program where it stays reachable once the initramfs is gone,
// by a directory of it that is mounted elsewhere. No copy: an emulator translates
// code by the page that it lies in, and what PID 1 has run the agent needn't have
// translated again. That is half of a starting agent's time.
func install() error {
	for dir, mode := range map[string]os.FileMode{runDir: 0o700, endDir: 0o755, keptDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	for _, name := range []string{filepath.Base(agentPath), "shutdown"} {
		if err := os.Link("/init", filepath.Join(keptDir, name)); err != nil {
			return err
		}
	}
	// systemd-shutdown would make these, but has it read-only by then.
	for _, dir := range endDirs {
		if err := os.Mkdir(filepath.Join(keptDir, dir), 0o755); err != nil {
			return err
		}
	}
	return unix.Mount(keptDir, endDir, "", unix.MS_BIND, "")
}

// supervise is PID 1's life after the machine is up to the freeze point.
func supervise(env string) {
	pipeR, pipeW, err := os.Pipe()
	if err != nil {
		die("pipe", err)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	asked := make(chan os.Signal, 1)
	root, begin := make(chan string, 1), make(chan struct{})
	go func() {
		r := bufio.NewReader(pipeR)
		if line, err := r.ReadString('\n'); err == nil {
			root <- strings.TrimSuffix(line, "\n")
		}
		_, _ = r.ReadByte() // until the agent closes its end, or dies
		close(begin)
	}()
	agent := loadBeside(func() int { return mustStartAgent(pipeW, env) })
	for {
		select {
		case <-children:
			if reapAll(agent) {
				time.Sleep(20 * time.Millisecond) // one that can't live must not eat the CPU
				agent = mustStartAgent(pipeW, env)
			}
		case init := <-root:
			if err := enterRoot(); err != nil {
				die("switch root", err)
			}
			if init != "" {
				pipeW.Close()
				select {
				case <-begin:
				case <-time.After(2 * firstCommand): // an agent that hangs holds nobody up
				}
				err := becomeInit(init)
				logf("%s: %v: going on without an init", init, err)
			}
			signal.Notify(asked, slices.Collect(verbSignals())...)
		case s := <-asked:
			reaperEnd(verbOfSignal(s))
		}
	}
}

// loadBeside loads the early modules while the agent starts: each takes a tenth
// of a second in emulation. The agent waits for the lock before it needs them.
func loadBeside(start func() (agent int)) (agent int) {
	lock, err := takeLock(modulesLock, unix.LOCK_EX)
	if err != nil {
		die("modules", err)
	}
	defer lock.Close()
	agent = start()
	for _, m := range openModules("early") {
		m.load()
	}
	return agent
}

func mustStartAgent(pipe *os.File, env string) int {
	lock, err := takeLock(agentLock, unix.LOCK_EX)
	if err != nil {
		die("agent", err)
	}
	defer lock.Close()
	pid, err := startAgent(lock, pipe, []string{env})
	if err != nil {
		die("agent", err)
	}
	return pid
}

// reapAll collects all dead children and reports whether agent was among them.
func reapAll(agent int) (died bool) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return died
		}
		died = died || pid == agent
	}
}

// enterRoot makes the assembled root this process's, and that of all who share
// its root: kernel threads do, so that modprobe is looked for in the image.
func enterRoot() error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(newRoot, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s: %w", newRoot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

// becomeInit replaces this program by the image's init. It returns only errors.
func becomeInit(path string) error {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
	return unix.Exec(path, append([]string{path}, os.Args[1:]...), append(env, defaultPath))
}
