// Package usernet is the user-mode network of one guest: a TCP/IP stack in this process at the
// other end of the guest's Ethernet cable. It carries the guest's connections by ordinary
// sockets of this process, so it needs no privilege and leaves nothing behind on the host.
//
// The guest may reach machines beyond the host, never the host itself: the host's addresses,
// its loopback and link-local services are closed.
//
// It knows nothing of what a VM is or who runs it. Frames come by a pair of Unix datagram
// sockets, or by a file that reads and writes one frame at a time.
package usernet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic      = tcpip.NICID(1)
	mtu      = 1500                       // of the guest's IP packets, bytes
	routerHW = "\x02\x62\x6e\x67\x00\x02" // locally administered (IEEE 802 §8.4), any value but the guest's
)

// Config says where the cable is and which addresses lie on it.
type Config struct {
	Local   string       // Unix datagram socket the VMM has bound
	Remote  string       // ours; an old one of that name is replaced
	Frames  *os.File     // instead of both: a packet socket (packet(7)), closed by Close; checksums may be missing in what it reads
	Subnet  netip.Prefix // the guest's network, "10.0.2.0/24"
	Gateway netip.Addr   // our address on it
	DNS     netip.Addr   // where we answer DNS, on port 53
	// Resolvers returns the host's name servers as host:port; nil reads /etc/resolv.conf.
	Resolvers func() []string
}

// Network is a running stack. When the guest doesn't take frames, they are dropped.
type Network struct {
	cfg      Config
	cable    cable
	link     *channel.Endpoint
	stack    *stack.Stack
	tcp, udp tokens // one per flow
	packets  packets
	crowd    crowd
	policy   *policy
	wg       sync.WaitGroup
	ctx      context.Context // ends with Close, and ends every flow
	stop     context.CancelFunc
	once     sync.Once
}

// Start binds our end of the cable and serves it until Close.
func Start(cfg Config) (*Network, error) {
	if cfg.Resolvers == nil {
		cfg.Resolvers = hostResolvers
	}
	n := &Network{cfg: cfg, tcp: make(tokens, maxTCP), udp: make(tokens, maxUDP), packets: newPackets(), policy: newPolicy()}
	n.ctx, n.stop = context.WithCancel(context.Background())
	if n.cable = cfg.Frames; cfg.Frames == nil {
		var err error
		if n.cable, err = bind(cfg); err != nil {
			return nil, fmt.Errorf("user network: %w", err)
		}
	}
	if err := n.newStack(); err != nil {
		return nil, errors.Join(fmt.Errorf("user network: %w", err), n.cable.Close())
	}
	n.wg.Add(2)
	go n.fromGuest()
	go n.toGuest()
	return n, nil
}

// Close ends every connection of the guest and removes our socket.
func (n *Network) Close() error {
	var err error
	n.once.Do(func() {
		n.stop()
		err = n.cable.Close()
		n.link.Close()
		n.wg.Wait()
		n.stack.Destroy()
		n.policy.close()
	})
	return err
}

func (n *Network) newStack() error {
	n.link = channel.New(queueLen, mtu+header.EthernetMinimumSize, tcpip.LinkAddress(routerHW))
	if n.cfg.Frames != nil {
		n.link.LinkEPCapabilities |= stack.CapabilityRXChecksumOffload
	}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := bound(n.stack); err != nil {
		return fmt.Errorf("bounds: %s", err)
	}
	if err := n.stack.CreateNIC(nic, ethernet.New(n.link)); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	for _, addr := range []netip.Addr{n.cfg.Gateway, n.cfg.DNS} {
		pa := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4(addr.As4()), PrefixLen: n.cfg.Subnet.Bits()}}
		if err := n.stack.AddProtocolAddress(nic, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address %s: %s", addr, err)
		}
	}
	// We carry packets to any destination, so the interface takes packets for all addresses
	// and answers from them.
	if err := n.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("promiscuous mode: %s", err)
	}
	if err := n.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("spoofing: %s", err)
	}
	n.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	sack := tcpip.TCPSACKEnabled(true)
	if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("selective acknowledgement: %s", err)
	}
	fwd := tcp.NewForwarder(n.stack, bigBuffer, maxDialing, n.carryTCP)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, fwd.HandlePacket)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(n.stack, n.carryUDP).HandlePacket)
	return nil
}

// fromGuest takes frames off the cable. A frame is one datagram; the guest can
// send anything, and the stack checks what it parses.
func (n *Network) fromGuest() {
	defer n.wg.Done()
	frame := make([]byte, header.EthernetMinimumSize+65536) // a guest may leave segmentation to its network card
	for {
		size, err := n.cable.Read(frame)
		if err != nil {
			if n.ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
				return
			}
			pause(n.ctx) // a device that is down gives one error, and may come up again
			continue
		}
		if size < header.EthernetMinimumSize || n.strayPing(frame[:size]) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame[:size])})
		n.link.InjectInbound(0, pkt) // the Ethernet layer reads the protocol itself
		pkt.DecRef()
	}
}

// strayPing reports whether a frame is an ICMP packet that isn't for the gateway. The stack
// takes every address for its own and would answer for hosts that don't exist.
func (n *Network) strayPing(frame []byte) bool {
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber || len(ip) < header.IPv4MinimumSize ||
		ip.TransportProtocol() != header.ICMPv4ProtocolNumber {
		return false
	}
	dst := netip.AddrFrom4(ip.DestinationAddress().As4())
	return dst != n.cfg.Gateway && dst != n.cfg.DNS
}

// toGuest sends the stack's frames on the cable. Frames are lost if the VMM is gone or doesn't
// read; TCP sends them again.
func (n *Network) toGuest() {
	defer n.wg.Done()
	wake := make(chan struct{}, 1)
	h := n.link.AddNotify(notifier(wake))
	defer n.link.RemoveNotify(h)
	for {
		pkt := n.link.Read()
		if pkt == nil {
			select {
			case <-wake:
				continue
			case <-n.ctx.Done():
				return
			}
		}
		view := pkt.ToView()
		pkt.DecRef()
		if err := n.cable.SetWriteDeadline(time.Now().Add(sendPatience)); err == nil {
			_, _ = n.cable.Write(view.AsSlice()) // errors are ignored, see above
		}
		view.Release()
	}
}

type notifier chan struct{}

// WriteNotify wakes the writer; one pending wake-up is enough for any number of frames.
func (w notifier) WriteNotify() {
	select {
	case w <- struct{}{}:
	default:
	}
}
