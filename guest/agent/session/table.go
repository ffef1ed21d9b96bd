package session

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/group"
	"banger/guest/agent/tool"
)

// Bounds of a Table, for any client.
const (
	maxRunning       = 128
	maxFinished      = 64
	maxFinishedBytes = 16 << 20 // output kept of all finished sessions together
	defaultSpool     = 4 << 20
	minSpool         = 256 << 10 // a client confirms every 64 KiB
)

// Table holds the sessions of one agent. The zero Table works.
type Table struct {
	// Cgroup is a cgroup v2 directory of our own below which each session gets a
	// group, "/sys/fs/cgroup/banger.exec". If it is empty or can't be made, sessions stay in
	// the agent's group, and an out-of-memory kill can't be told from other kills.
	Cgroup string
	// Grace is how long a command whose client's stream broke is held back rather
	// than its output dropped; 0: a minute.
	Grace time.Duration
	// Hold is how long the answer to a new command waits to be sent together with its first
	// output or its end; 0: 100 ms. A client's signals wait for the answer.
	Hold time.Duration

	// Environment returns variables, KEY=value, that each command gets unless it sets them
	// itself. Nil: none.
	Environment func() []string

	resolve func(*guest.ExecSpec) (*program, error) // nil: resolve; set by tests

	groups group.Groups
	forkMu sync.Mutex // held while the agent's own OOM score is changed

	roll
}

// roll is the sessions there are.
type roll struct {
	mu       sync.Mutex // guards what follows; taken before a session's lock, never after
	sessions map[string]*session
	order    []*session // as started
}

// Prepare makes the group of the first session in advance: that takes an emulated guest
// longer than starting a program.
func (t *Table) Prepare() { t.groups.Give(t.groups.Take(t.Cgroup)) }

// Len returns how many sessions haven't ended.
func (t *Table) Len() int {
	n := 0
	for _, s := range t.all() {
		if s.state().Exit == nil {
			n++
		}
	}
	return n
}

// List describes all sessions, oldest first. Environments are left out and
// arguments cut after half a kilobyte, so that a list fits one message.
func (t *Table) List() []guest.Session {
	list := []guest.Session{}
	for _, s := range t.all() {
		d := s.state()
		d.Spec.Env = nil
		d.Spec.Argv = cut(d.Spec.Argv, 512)
		list = append(list, d)
	}
	return list
}

func (t *roll) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.order)
}

func cut(argv []string, limit int) []string {
	var out []string
	for _, arg := range argv {
		if len(arg) > limit {
			return append(out, strings.ToValidUTF8(arg[:limit], "")+"…")
		}
		limit -= len(arg) + 8
		if out = append(out, arg); limit < 0 {
			return append(out, "…")
		}
	}
	return out
}

// Signal sends a signal by name ("TERM") to a session's processes.
func (t *Table) Signal(id, name string) error {
	s, err := t.find(id)
	if err != nil {
		return err
	}
	sig, err := signalNumber(name)
	if err != nil {
		return err
	}
	return s.signal(sig)
}

func signalNumber(name string) (syscall.Signal, error) {
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, guest.Errorf(guest.CodeInvalid, "no signal is called %q", name)
}

// Clear forgets all that have ended.
func (t *Table) Clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range slices.Clone(t.order) {
		if s.state().Exit != nil {
			t.remove(s)
		}
	}
}

// Forget drops an ended session. An unknown one is forgotten already.
func (t *Table) Forget(id string) error {
	s, err := t.find(id)
	if err != nil {
		return nil
	}
	if s.state().Exit == nil {
		return guest.Errorf(guest.CodeConflict, "session %s still runs", id)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(s)
	return nil
}

func (t *roll) find(id string) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[id]; s != nil {
		return s, nil
	}
	return nil, guest.Errorf(guest.CodeNotFound, "the agent knows no session %q", id)
}

// remove needs t.mu.
func (t *roll) remove(s *session) {
	if t.sessions[s.spec.ID] != s {
		return
	}
	delete(t.sessions, s.spec.ID)
	t.order = slices.DeleteFunc(t.order, func(o *session) bool { return o == s })
}

// open returns the session of a spec, and starts it unless it was started before. A
// command that can't be started is a session that has ended.
func (t *Table) open(spec guest.ExecSpec) (*session, error) {
	if err := check(&spec); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if s := t.sessions[spec.ID]; s != nil {
		t.mu.Unlock()
		return s, nil
	}
	if len(t.order) >= maxRunning+maxFinished {
		defer t.mu.Unlock()
		return nil, guest.Errorf(guest.CodeUnavailable, "the agent keeps %d commands already, its limit", len(t.order))
	}
	s := newSession(t, spec)
	if t.sessions == nil {
		t.sessions = make(map[string]*session)
	}
	t.sessions[spec.ID] = s
	t.order = append(t.order, s)
	t.mu.Unlock()
	// Without a lock, and without anybody waiting: looking up a file on a network that is
	// gone may take for ever.
	go func() {
		look := resolve
		if t.resolve != nil {
			look = t.resolve
		}
		spec := s.spec
		if t.Environment != nil {
			spec.Env = slices.Concat(t.Environment(), spec.Env)
		}
		p, err := look(&spec)
		var proc *process
		if err == nil {
			proc, err = t.start(p, &s.spec)
		}
		s.begin(proc, err)
	}()
	return s, nil
}

// prune forgets the oldest finished sessions nobody follows beyond the bounds.
func (t *Table) prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	count, bytes := 0, 0
	for _, s := range slices.Backward(t.order) {
		size, idle := s.finished()
		if !idle {
			continue
		}
		count++
		if bytes += size; count > maxFinished || bytes > maxFinishedBytes {
			defer t.remove(s)
		}
	}
}

func check(spec *guest.ExecSpec) error {
	bad := func(format string, args ...any) error {
		return guest.Errorf(guest.CodeInvalid, format, args...)
	}
	if len(spec.ID) != 32 || strings.Trim(spec.ID, "0123456789abcdef") != "" {
		return bad("session id %q isn't 32 hex digits", spec.ID)
	}
	if spec.Tool != "" && !tool.Known(spec.Tool) {
		return bad("the agent has no tool %q", spec.Tool)
	}
	for _, kv := range spec.Env {
		if i := strings.IndexByte(kv, '='); i < 1 {
			return bad("environment entry %q isn't KEY=value", kv)
		}
	}
	for _, s := range slices.Concat(spec.Argv, spec.Env, []string{spec.Dir, spec.Term}) {
		if strings.IndexByte(s, 0) >= 0 {
			return bad("an argument holds a NUL byte")
		}
	}
	return nil
}

// awaitStart returns when the command runs, or can't be started.
func (s *session) awaitStart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.stage == starting {
		s.wake.Wait()
	}
}

// neverRan needs s.mu.
func (s *session) neverRan(err error) {
	st := guest.ExitStatus{Code: 126, Error: err.Error()}
	if e, ok := errors.AsType[*exitError](err); ok {
		st.Code = e.code
	}
	s.exit, s.stage, s.in.closed = &st, over, true
	s.in.taken = s.in.received
}
