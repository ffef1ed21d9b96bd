package usernet

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Bounds of the memory that a guest can make this process use. A guest chooses how many flows
// it opens, what it acknowledges and what it leaves unread. With these bounds the worst guest
// takes about 200 MiB and 6,000 goroutines:
//
//	TCP flows       maxTCP     2 goroutines and 2 × copySize each, and one endpoint: buffers of
//	                           bigBuffer both ways for the first bigFlows, of smallBuffer for the
//	                           others. 128 × 512 KiB + 896 × 64 KiB + 1024 × 32 KiB = 152 MiB
//	unsent pieces   maxPieces  a flow, so that single bytes can't cost a segment each: 64 KiB a flow at most
//	UDP flows       maxUDP     3 goroutines and 32 KiB of datagrams each: 32 MiB
//	datagrams       maxPackets buffers of 64 KiB, shared by all UDP flows: 4 MiB
//	TCP handshakes  maxDialing
//	frames          queueLen   waiting for the guest: 768 KiB
//	verdicts        maxKnown   on addresses, see policy.go
//
// Beside that the kernel has buffers for the far ends, of the sizes that it sees fit for the
// first freeFlows of TCP (10 MiB both ways, where nobody has set more) and the first bigFlows
// of UDP (416 KiB), and of those above for the others. It doubles what it is asked for:
// 16 × 10 + 112 × 1 + 896 × 1/8 MiB, and 128 × 416 + 896 × 128 KiB, 548 MiB in all.
//
// The stack itself bounds what it reassembles (4 MiB), the neighbours it knows
// (512) and the packets that wait for one (64 × 256).
const (
	maxDialing  = 256
	maxTCP      = 1024
	maxUDP      = 1024
	freeFlows   = 16
	bigFlows    = 128
	bigBuffer   = 256 << 10
	smallBuffer = 32 << 10
	copySize    = 16 << 10
	maxPieces   = 64
	maxPackets  = 64
	queueLen    = 512 // frames
)

// Bounds of the time for which it can.
const (
	dialPatience = 30 * time.Second // for the far side to answer a connection attempt
	endPatience  = time.Minute      // when flows are scarce: for the guest to take the rest of a connection that both sides have ended
	udpIdle      = 2 * time.Minute  // a UDP flow without a packet ends (RFC 4787, REQ-5)
	dnsIdle      = 10 * time.Second // likewise one to the resolver, as each question is a flow
	sendPatience = 100 * time.Millisecond
	// The cable delivers no packet late, so an ended connection needn't be kept as long as on
	// the Internet (RFC 9293 §3.6.1 says four minutes).
	timeWait = 100 * time.Millisecond
	// When both sides have ended a connection, there is no FIN of the guest to wait for. The
	// stack waits for one all the same if it had to send its own FIN twice.
	finWait = time.Second
)

// bound sets the stack's own bounds.
func bound(s *stack.Stack) tcpip.Error {
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 1, Default: bigBuffer, Max: bigBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: bigBuffer, Max: bigBuffer}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	fin := tcpip.TCPLingerTimeoutOption(finWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&send, &receive, &wait, &fin} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// tokens bounds how many of something there may be.
type tokens chan struct{}

// take takes a token; ok is false when there is none left.
func (t tokens) take() (ok bool) {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t tokens) give() { <-t }
