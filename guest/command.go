package guest

import (
	"strings"
	"time"
)

// Command is a command in a VM's guest, as the agent there keeps it: while it runs, and
// after it has ended until the VM stops, or 64 others have ended later, or the output of
// those that ended later takes 16 MiB.
type Command struct {
	ID       string    `json:"id"`
	VM       string    `json:"vm"`             // VM id
	Argv     []string  `json:"argv"`           // cut after half a kilobyte
	Dir      string    `json:"dir,omitempty"`  // as it was asked for
	User     string    `json:"user,omitempty"` // as it was asked for; empty: root
	TTY      bool      `json:"tty,omitempty"`  // it has a terminal
	Detached bool      `json:"detached"`       // nobody waited for it when it began
	Running  bool      `json:"running"`
	Started  time.Time `json:"started,omitzero"` // by the guest's clock; none: it never ran

	// Exit is the status of a command that has ended: 128+n when a signal ended it; 126 or
	// 127 when it couldn't be run.
	Exit   *int   `json:"exit,omitempty"`
	Signal string `json:"signal,omitempty"` // which one ended it, "KILL"
	OOM    bool   `json:"oom,omitempty"`    // the guest had no memory left, and its kernel ended it
	Error  string `json:"error,omitempty"`  // why it never ran
	TookMS int64  `json:"took_ms,omitempty"`

	Stdout  int64 `json:"stdout"`  // bytes written so far
	Stderr  int64 `json:"stderr"`  // bytes written so far
	Dropped int64 `json:"dropped"` // bytes of both that aren't kept
}

// CommandsOf returns those of a guest's sessions that users run, in the same order. The
// agent's own tools are no commands. vm is the VM's id.
func CommandsOf(vm string, all []Session) (list []Command) {
	for _, d := range all {
		if d.Spec.Tool == "" {
			list = append(list, commandOf(vm, d))
		}
	}
	return list
}

func commandOf(vm string, d Session) Command {
	cmd := Command{
		ID: d.Spec.ID, VM: vm, Argv: d.Spec.Argv, Dir: d.Spec.Dir, User: d.Spec.User, TTY: d.Spec.TTY != nil, Detached: d.Spec.Detach,
		Running: d.Exit == nil, Started: d.Started, Stdout: d.Stdout, Stderr: d.Stderr, Dropped: d.Dropped,
	}
	if cmd.Argv == nil {
		cmd.Argv = []string{} // a login shell
	}
	if st := d.Exit; st != nil {
		cmd.Exit, cmd.Signal, cmd.OOM, cmd.Error, cmd.TookMS = &st.Code, st.Signal, st.OOM, st.Error, st.TookUS/1000
	}
	return cmd
}

// FindCommand returns the command that ref names: its id, or the first digits of it, at
// least four. CodeNotFound when there is none, CodeConflict when there are several.
func FindCommand(list []Command, ref string) (Command, error) {
	var found []Command
	for _, cmd := range list {
		if cmd.ID == ref || len(ref) >= 4 && strings.HasPrefix(cmd.ID, ref) {
			found = append(found, cmd)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Command{}, Errorf(CodeNotFound, "there is no command %q", ref)
	}
	return Command{}, Errorf(CodeConflict, "%q names %d commands", ref, len(found))
}
