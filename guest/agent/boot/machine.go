package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/home"
	"banger/guest/agent/nic"
	"banger/guest/agent/outfit"
	"banger/guest/agent/renew"
)

// Machine is the machine the agent runs in.
type Machine struct {
	version string
	lock    *os.File // held for life: see the package comment
	pid1    *os.File // written when the root is ready, closed when Init shall go on; nil in an agent started later
	early   []guest.Stage

	// Commands returns how many commands run. Nil: not known.
	Commands func() int

	done atomic.Pointer[state]

	mu     sync.Mutex  // guards what follows; held while the root is assembled
	failed error       // why Configure failed, for good
	held   *renew.Held // its processes are stopped until it is configured again

	systemd asker
}

// state is what an agent must know when it replaces one that died.
type state struct {
	Identity guest.Identity `json:"identity"` // without entropy
	Ready    guest.Ready    `json:"ready"`
}

// Open makes this process the machine's agent. version is the agent's version, args the
// program's arguments without argv[0]. It is an error when there is an agent already.
func Open(version string, args []string) (*Machine, error) {
	m := &Machine{version: version}
	var err error
	if m.lock, err = ownLock(args, agentLock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	protect()
	m.early = decodeStages(os.Getenv(stagesEnv))
	if err := os.Unsetenv(stagesEnv); err != nil {
		return nil, err
	}
	if n := len(m.early); n > 0 {
		began := m.early[n-1].AtUS + m.early[n-1].TookUS
		m.early = append(m.early, guest.Stage{Name: "agent: start", AtUS: began, TookUS: uptimeUS() - began})
	}
	data, err := os.ReadFile(statePath)
	if errors.Is(err, os.ErrNotExist) {
		unix.CloseOnExec(4)
		m.pid1 = os.NewFile(4, "pid1")
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", statePath, err)
	}
	m.done.Store(&s)
	m.keepGuardian(&s)
	return m, nil
}

// Configured reports whether the machine has its identity and root.
func (m *Machine) Configured() bool { return m.done.Load() != nil }

// Configure makes the machine what id says, once: it assembles the root, makes
// it this process's, and has PID 1 start the image's init. The same identity
// again gets the first answer, another one an error. A failure is final.
func (m *Machine) Configure(_ context.Context, id guest.Identity) (guest.Ready, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return guest.Ready{}, m.failed
	}
	if s := m.done.Load(); s != nil && m.held != nil {
		return m.reconfigure(s, id)
	} else if s != nil && s.Identity.ID != id.ID {
		return guest.Ready{}, guest.Errorf(guest.CodeConflict, "this machine is %s already", s.Identity.ID)
	} else if s != nil {
		return s.Ready, nil
	}
	ready, err := m.assemble(id)
	if err != nil {
		logf("configure: %v", err)
		m.failed = err
		return guest.Ready{}, err
	}
	id.Entropy = nil
	s := &state{id, ready}
	if err := s.save(); err != nil {
		m.failed = err
		return guest.Ready{}, err
	}
	if _, err := fmt.Fprintf(m.pid1, "%s\n", ready.Init); err != nil {
		m.failed = fmt.Errorf("tell PID 1: %w", err)
		return guest.Ready{}, m.failed
	}
	m.done.Store(s)
	go m.beginInit()
	m.keepGuardian(s)
	return ready, nil
}

// The image's init starts after the first command: a starting systemd takes the CPU for
// seconds in an emulated guest, and the user of `vm run -- CMD` waits for CMD.
const (
	commandComes = 50 * time.Millisecond // from a host that sees the VM is up
	firstCommand = 300 * time.Millisecond
	commandPoll  = 5 * time.Millisecond
)

// beginInit lets PID 1 become the image's init: when no command comes soon, or when the
// first one has ended or takes too long.
func (m *Machine) beginInit() {
	defer m.pid1.Close()
	if m.Commands == nil {
		return
	}
	for began, ran := time.Now(), false; ; time.Sleep(commandPoll) {
		runs, took := m.Commands() > 0, time.Since(began)
		if ran && !runs || !runs && took > commandComes || took > firstCommand {
			return
		}
		ran = ran || runs
	}
}

func (s *state) save() error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := statePath + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, statePath)
}

// keepGuardian keeps a guardian alive if PID 1 isn't ours, which would be the guardian.
// It gives systemd some seconds to start one by our unit: until then another process
// would only take CPU time from the first command.
func (m *Machine) keepGuardian(s *state) {
	if s.Ready.Init == "" {
		return
	}
	go func() {
		if isSystemd(s.Ready.Init) {
			time.Sleep(unitTime)
		}
		keep(guardianLock, startGuardian)
	}()
}

// unitTime is how long systemd may take to start our guardian unit.
const unitTime = 20 * time.Second

// assemble makes a machine at its freeze point the one of id.
func (m *Machine) assemble(id guest.Identity) (guest.Ready, error) {
	w := newStopwatch()
	if err := earlyLoaded(); err != nil {
		return guest.Ready{}, err
	}
	w.lap("early modules")
	renewed, err := renew.Run(id, renew.Early())
	if err != nil {
		return guest.Ready{}, err
	}
	w.lap("clock, entropy")
	others, err := diskDriver()
	if err != nil {
		return guest.Ready{}, err
	}
	w.lap("disk driver")
	network := make(chan error, 1)
	go func() {
		if id.Net != nil {
			if err := others(); err != nil {
				network <- err
				return
			}
		}
		network <- nic.Configure(id.Net)
	}()
	disk, err := assembleRoot(id, w)
	if err != nil {
		return guest.Ready{}, err
	}
	if err := <-network; err != nil {
		return guest.Ready{}, err
	}
	w.lap("network")
	if err := writeIdentity(id); err != nil {
		return guest.Ready{}, err
	}
	late, err := renew.Run(id, renew.Late())
	if err != nil {
		return guest.Ready{}, err
	}
	bootID, err := renew.BootID()
	if err != nil {
		return guest.Ready{}, fmt.Errorf("renew %s: %w", guest.RenewBootID, err)
	}
	if err := renew.OwedKeys(); err != nil {
		logf("host keys: %v", err) // the next start makes them
	}
	settleIn(id)
	outfit.Give(runDir, id.KernelVersion, func(what string, err error) { logf("%s: %v", what, err) })
	init := findInit(id.NoInit)
	if init == "" && id.NeedInit {
		return guest.Ready{}, guest.Errorf(guest.CodeInvalid, "the image has no init, and --init image asks for it")
	}
	if isSystemd(init) {
		if err := writeUnits(); err != nil {
			logf("units: %v", err) // keepGuardian starts another guardian
		}
	}
	w.lap("identity")
	return guest.Ready{
		Agent: m.version, Init: init, Stages: append(m.early, w.stages...), DiskMiB: disk.size >> 20,
		Renewed: append(append(renewed, late...), guest.RenewBootID), BootID: bootID, Seen: renew.Look(),
	}, nil
}

// settleIn gives the guest what it has of the host's user. It runs without that, too.
func settleIn(id guest.Identity) {
	if id.Home == nil {
		return
	}
	if err := home.Apply("/", *id.Home); err != nil {
		logf("of the host's user: %v", err)
	}
}

// Environment returns the variables that commands get of the host's user.
func (m *Machine) Environment() []string {
	if s := m.done.Load(); s != nil && s.Identity.Home != nil {
		return home.Environment("/", *s.Identity.Home)
	}
	return nil
}

// earlyLoaded waits for PID 1 to have loaded the early modules.
func earlyLoaded() error {
	early, err := takeLock(modulesLock, unix.LOCK_SH)
	if err != nil {
		return err
	}
	return early.Close()
}

// diskDriver loads the driver of the disks. It returns a function that loads those of the
// other devices.
func diskDriver() (others func() error, err error) {
	if others, err = renew.Thaw(); others != nil || err != nil {
		return others, err
	}
	late := openModules("late")
	if len(late) > 0 {
		late[0].load() // the disks' driver
		late = late[1:]
	}
	return func() error {
		for _, l := range late {
			l.load()
		}
		return nil
	}, nil
}

// findInit returns the path of the image's init, "" when it has none.
func findInit(without bool) string {
	if without {
		return ""
	}
	for _, path := range []string{"/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"} {
		if unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

func isSystemd(init string) bool {
	real, err := filepath.EvalSymlinks(init)
	return err == nil && filepath.Base(real) == "systemd"
}

// Shutdown asks the image's init to end the machine: "poweroff" or "reboot". It
// returns when asked.
func (m *Machine) Shutdown(ctx context.Context, verb string) error {
	if !m.Configured() {
		go func() { // nothing is mounted; let the answer go out first
			time.Sleep(50 * time.Millisecond)
			reset(verb)
		}()
		return nil
	}
	return askInit(ctx, verb, m.done.Load().Ready.Init != "")
}

// InitState says how far the image's init is, as guest.Health.Init does.
func (m *Machine) InitState() string {
	s := m.done.Load()
	switch {
	case s == nil:
		return ""
	case s.Ready.Init == "":
		return "none"
	case !isSystemd(s.Ready.Init):
		return "running" // others can't be asked
	}
	return m.systemd.state()
}
