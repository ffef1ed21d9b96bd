package fake

import (
	"encoding/json"
	"fmt"
	"net"
	"time"

	"banger"
	"banger/guest"
)

// Guest is the far end of one stream into a VM that runs.
type Guest struct {
	net.Conn
	host    *Host
	machine *machine
}

// ID is the VM's.
func (g *Guest) ID() string { return g.machine.ID }

// Ended is closed when the guest's machine is gone.
func (g *Guest) Ended() <-chan struct{} { return g.machine.ended }

// shutdown is the guest's own, once it has agreed to it.
func (g *Guest) shutdown() {
	if g.wait("poweroff") {
		g.Poweroff()
	}
}

// Poweroff ends the VM as its init would: this run of it, and none after it.
func (g *Guest) Poweroff() {
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	if g.host.guests[g.machine.ID] == g.machine {
		g.host.end(g.machine.ID, banger.Exit{Kind: banger.ExitPoweroff})
	}
}

// Freeze has the guest stand still, as it is told before it is captured.
func (g *Guest) Freeze() {
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	g.machine.frozen = true
}

// cut breaks the stream when the VM is gone, or when the daemon has closed it.
func (g *Guest) cut(left <-chan struct{}) {
	select {
	case <-g.machine.ended:
	case <-left:
	}
	g.Close()
}

// wait takes the time that Host.Pause says something takes. It says nothing of one
// that went wrong: a guest that ended meanwhile does nothing more.
func (g *Guest) wait(what string) (lives bool) {
	if over := g.host.pause(g.machine.ID, what); over != nil {
		select {
		case err := <-over:
			_ = err // the guest goes on as it is
		case <-g.machine.ended:
		}
	}
	select {
	case <-g.machine.ended:
		return false
	default:
		return true
	}
}

// serve is a small agent: it takes its identity, tells its health and powers
// off. It runs no commands.
func (g *Guest) serve() {
	defer g.Close()
	if req, err := guest.ReadRequest(g); err == nil {
		g.respond(req)
	}
}

func (g *Guest) respond(req guest.Request) {
	if !g.wait(req.Op) {
		return
	}
	version, err := req.Accept()
	var body any
	var after func()
	if err == nil {
		body, after, err = g.answer(req)
	}
	raw, err := guest.AppendResponse(nil, version, body, err)
	if err != nil {
		return
	}
	if _, err := g.Write(raw); err == nil && after != nil {
		after()
	}
}

func (g *Guest) answer(req guest.Request) (body any, after func(), err error) {
	switch req.Op {
	case guest.OpConfigure:
		var id guest.Identity
		if err := json.Unmarshal(req.Body, &id); err != nil {
			return nil, nil, guest.Errorf(guest.CodeInvalid, "identity: %v", err)
		}
		if id.ID != g.machine.ID {
			return nil, nil, guest.Errorf(guest.CodeConflict, "this is %s, not %s", g.machine.ID, id.ID)
		}
		g.host.mu.Lock()
		defer g.host.mu.Unlock()
		g.host.serials++
		ready := guest.Ready{Agent: "fake", Init: "/sbin/init", Renewed: guest.Renewals(), BootID: fmt.Sprintf("guest-boot-%d", g.host.serials)}
		ready.Seen = Seen(id)
		return ready, nil, nil
	case guest.OpFreeze:
		g.Freeze()
		return nil, nil, nil
	case guest.OpHealth:
		return guest.Health{Agent: "fake", Configured: true, Init: "running", Time: time.Now().Add(g.host.ClockError)}, nil, nil
	case guest.OpShutdown:
		return nil, func() { go g.shutdown() }, nil
	case guest.OpClock, guest.OpForget:
		return nil, nil, nil
	case guest.OpSessions:
		return []guest.Session{}, nil, nil
	}
	return nil, nil, guest.Errorf(guest.CodeInvalid, "the fake guest can't %s", req.Op)
}

// Seen is what programs see in a guest that is what it was asked to be.
func Seen(id guest.Identity) guest.Seen {
	s := guest.Seen{Time: time.Now(), Hostname: id.Hostname, MachineID: id.MachineID}
	if id.Net != nil {
		s.MAC = id.Net.MAC
	}
	return s
}

// Serve is the agent built in, for an Agent that answers some of the time.
func (g *Guest) Serve() { g.serve() }

// Answer serves one request if allow says so, and else leaves it hanging.
func (g *Guest) Answer(allow func(guest.Request) bool) {
	req, err := guest.ReadRequest(g)
	if err == nil && allow(req) {
		g.respond(req)
	}
}

// VMM is the process this guest runs in.
func (g *Guest) VMM() banger.Process { return g.machine.vmm }
