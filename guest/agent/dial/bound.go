package dial

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// A listener's state in /proc/net/tcp is 0A, as TCP_LISTEN; an unconnected socket of UDP is
// in state 07. sock_diag(7) would say the same, but its parts are modules, which an image
// without kmod doesn't load.
var waiting = map[string]string{"tcp": "0A", "udp": "07"}

// maxTable bounds what is read of one of the kernel's tables, in bytes: some 50,000 sockets.
const maxTable = 8 << 20

// socket is one that waits for others.
type socket struct {
	at    netip.AddrPort
	uid   uint32
	inode uint64
}

// bound returns the addresses that listeners of a port are bound to.
func bound(network string, port uint16) (at []netip.Addr) {
	for s := range sockets(network) {
		if s.at.Port() == port {
			at = append(at, s.at.Addr())
		}
	}
	return at
}

// sockets lists those of a network, "tcp" or "udp", that wait for others.
func sockets(network string) iter.Seq[socket] {
	return func(yield func(socket) bool) {
		for _, family := range []string{"", "6"} {
			f, err := os.Open("/proc/self/net/" + network + family)
			if err != nil {
				continue // a kernel without IPv6 has no such table
			}
			more := parse(io.LimitReader(f, maxTable), waiting[network], yield)
			_ = f.Close() // only read
			if !more {
				return
			}
		}
	}
}

// parse reads a table of proc_net(5): "sl local_address rem_address st tx:rx tr:when
// retrnsmt uid timeout inode ...". Addresses are words of 32 bits in the processor's order.
func parse(r io.Reader, state string, yield func(socket) bool) bool {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != state {
			continue
		}
		at, ok := address(f[1])
		uid, err := strconv.ParseUint(f[7], 10, 32)
		inode, err2 := strconv.ParseUint(f[9], 10, 64)
		if !ok || err != nil || err2 != nil {
			continue
		}
		if !yield(socket{at, uint32(uid), inode}) {
			return false
		}
	}
	return true
}

// address parses "0100007F:0BB8".
func address(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}
