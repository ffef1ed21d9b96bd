// Package inguest is the routes that need a VM's guest: commands and files, by its agent,
// for clients that don't speak the agent's own protocol.
//
// It knows nothing of VMs but that one can be found and its agent reached.
package inguest

import (
	"log/slog"
	"slices"

	"banger"
	"banger/api/wire"
	"banger/guest"
)

// handlers answer for what is asked of guests.
type handlers struct {
	banger.VMService
	log *slog.Logger
}

// Routes returns the routes to the guests of these VMs.
func Routes(vms banger.VMService, log *slog.Logger) []wire.Route {
	s := handlers{vms, log}
	return slices.Concat([]wire.Route{
		wire.Value("Exec", "POST /v2/vms/{vm}/exec", wire.Owner, "Runs a command in a VM and answers when it has ended. It is killed when its time is over or the client leaves.", s.exec),
	}, s.fileRoutes(), s.commandRoutes())
}

// ExecRequest is a command for programs that want one answer and no stream.
type ExecRequest struct {
	Argv      []string    `json:"argv" jsonschema:"required,minItems=1"`
	Stdin     guest.Bytes `json:"stdin,omitzero"`
	Env       []string    `json:"env,omitempty"`                               // KEY=value
	Dir       string      `json:"dir,omitempty"`                               // empty: the VM's workspace, else the user's home
	User      string      `json:"user,omitempty"`                              // empty: root
	TimeoutMS int64       `json:"timeout_ms,omitempty" jsonschema:"minimum=0"` // 0: as long as the client stays
}

// ExecAnswer says how a command ended and what it wrote. It has the first MiB of
// each stream; the rest is read, dropped and counted.
type ExecAnswer struct {
	Exit    int         `json:"exit"`
	Signal  string      `json:"signal,omitempty"` // which one ended it, "KILL"
	Error   string      `json:"error,omitempty"`  // why the command never ran
	Stdout  guest.Bytes `json:"stdout"`
	Stderr  guest.Bytes `json:"stderr"`
	Dropped int64       `json:"dropped,omitempty"` // bytes of both streams left out
	// TimedOut says that the timeout ended the command; its exit status is 124 then, as with timeout(1).
	TimedOut bool `json:"timed_out,omitempty"`
}
