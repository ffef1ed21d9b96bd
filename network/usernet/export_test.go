package usernet

import (
	"io"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// MaxPieces is how many writes the stack keeps of one flow.
const MaxPieces = maxPieces

// ToGuest returns a flow to a port that the guest listens on.
func (n *Network) ToGuest(t *testing.T, a netip.Addr, port uint16) io.Writer {
	t.Helper()
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err != nil {
		t.Fatal(err.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err := ep.Connect(tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(a.As4()), Port: port}); err != nil {
		if _, ok := err.(*tcpip.ErrConnectStarted); !ok {
			t.Fatal(err.String())
		}
	}
	<-connected
	t.Cleanup(ep.Abort)
	return newNear(ep, wq, bigBuffer)
}

// FreeFlows is how many flows the kernel gives the buffers that it likes, BigBuffer what
// some of the others have.
const (
	FreeFlows = freeFlows
	BigBuffer = bigBuffer
)

// MaxTCP is how many TCP flows a guest may have.
const MaxTCP = maxTCP

// Flows returns how many flows are counted.
func (n *Network) Flows() int { return len(n.tcp) + len(n.udp) }

// Closed reports an address a guest may not reach.
func (n *Network) Closed(a netip.Addr) bool { return n.closed(a) }

var lastPolicy *policy

// Policy returns the memory of a policy that asks as told.
func Policy(ask func(netip.Addr) (bool, bool), changed func() bool) func(netip.Addr) bool {
	lastPolicy = &policy{ask: ask, changed: changed}
	return lastPolicy.closed
}

// Known returns how many verdicts the last Policy keeps.
func Known() int { return len(lastPolicy.known) }
