// Command banger-agent is the one program that we bring into a guest: its first
// process, its agent, the agent's guardian, its last process, and the tools that the
// agent runs as another user. The name it is called by says which one to be. It only
// puts these together, and knows nothing of how they work.
package main

import (
	"fmt"
	"os"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/boot"
	"banger/guest/agent/channel"
	"banger/guest/agent/modprobe"
	"banger/guest/agent/renew"
	"banger/guest/agent/session"
	"banger/guest/agent/tool"
	"banger/guest/link"
	"banger/version"
)

func main() {
	switch os.Args[0] {
	case tool.Name:
		os.Exit(tool.Main(os.Args))
	case boot.AgentName:
		err := serve(os.Args[1:])
		fmt.Fprintln(os.Stderr, "banger-agent:", err)
		os.Exit(1)
	case boot.GuardianName:
		boot.Guard(os.Args[1:])
	case "/init":
		boot.Init()
	case "/shutdown":
		boot.End(os.Args[1:])
	case modprobe.Path:
		os.Exit(modprobe.Main(os.Args[1:]))
	default:
		fmt.Println("banger-agent", version.String(), "runs in banger's guests only")
		os.Exit(2)
	}
}

// serve runs the agent. It returns the error that ended it.
func serve(args []string) error {
	machine, err := boot.Open(version.String(), args)
	if err != nil {
		return err
	}
	host, err := channel.Open(boot.Channel())
	if err != nil {
		return err
	}
	sessions := &session.Table{Cgroup: "/sys/fs/cgroup/banger.exec", Environment: machine.Environment}
	machine.Commands = sessions.Len
	go sessions.Prepare() // while we wait for the host
	server := &agent.Server{
		Version:    version.String(),
		Sessions:   sessions,
		Configure:  machine.Configure,
		Configured: machine.Configured,
		InitState:  machine.InitState,
		Shutdown:   machine.Shutdown,
		Freeze: func() error {
			if n := sessions.Len(); n > 0 {
				return guest.Errorf(guest.CodeConflict, "%d commands still run in the guest", n)
			}
			sessions.Clear()
			return machine.Freeze(host.HungUp)
		},
		SetClock: renew.SetClock,
	}
	failed := make(chan error, 2)
	go func() { failed <- boot.ServeNotices(server.Notify) }()
	go func() { failed <- server.Serve(link.New(host, link.Guest)) }()
	return <-failed
}
