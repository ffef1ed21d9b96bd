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

	"banger/guest/agent/modprobe"
	"banger/guest/agent/renew"
)

// Init is PID 1 of the initramfs. It brings the kernel to the freeze point, starts the
// agent, waits until that has assembled the root, and becomes the image's init. If there
// is none, it stays and reaps processes. It doesn't return: when it can't go on, it prints
// why on the console and ends, and the kernel panics.
func Init() {
	// Benchmarks measure the kernel's time up to this line.
	fmt.Fprintln(os.Stderr, "banger-agent: the first line of /init")
	w := newStopwatch()
	if err := earlyMounts(); err != nil {
		die("mount", err)
	}
	if err := renew.OpenRandom(); err != nil {
		logf("random numbers: %v", err) // getting some will take longer
	}
	w.lap("init: mounts")
	if err := install(); err != nil {
		die("install the agent", err)
	}
	w.lap("init: install")
	// The soft limit of 1024 is for programs that use select(2). The hard limit is what
	// systemd gives its services.
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

// earlyMounts mounts what every guest has, with systemd's own options: systemd uses the
// mounts that it finds.
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
		logf("cgroup: %v", err) // the agent then has no cgroup of its own
	}
	return nil
}

// install makes this program reachable once the initramfs is gone: it mounts the
// initramfs's directory elsewhere. It makes no copy, as an emulator translates code page
// by page: what PID 1 has run needn't be translated again for the agent. That saves half
// of the agent's start.
func install() error {
	for dir, mode := range map[string]os.FileMode{runDir: 0o700, endDir: 0o755, keptDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	for _, name := range []string{filepath.Base(agentPath), "shutdown", modprobe.Name} {
		if err := os.Link("/init", filepath.Join(keptDir, name)); err != nil {
			return err
		}
	}
	// systemd-shutdown would make these, but it is read-only by then.
	for _, dir := range endDirs {
		if err := os.Mkdir(filepath.Join(keptDir, dir), 0o755); err != nil {
			return err
		}
	}
	return unix.Mount(keptDir, endDir, "", unix.MS_BIND, "")
}

// supervise is what PID 1 does from the freeze point on.
func supervise(env string) {
	pipeR, pipeW, err := os.Pipe()
	if err != nil {
		die("pipe", err)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, slices.Collect(verbSignals())...) // one that comes early is kept
	var end <-chan os.Signal                               // asked, as soon as there is something to end
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
				time.Sleep(20 * time.Millisecond) // one that always dies at once must not take all CPU time
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
				case <-time.After(2 * firstCommand): // don't wait for an agent that hangs
				}
				err := becomeInit(init)
				logf("%s: %v: going on without an init", init, err)
			}
			end = asked
		case s := <-end:
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

// enterRoot makes the assembled root that of this process and of all that share its root.
// Kernel threads do, so they run the image's modprobe.
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
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// As systemd has it, and containers want it: what is mounted is seen in copies, too.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

// becomeInit replaces this program by the image's init. It returns only errors.
func becomeInit(path string) error {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
	return unix.Exec(path, append([]string{path}, os.Args[1:]...), append(env, defaultPath))
}
