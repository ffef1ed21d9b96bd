package bridge

import (
	"bytes"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rules replaces our tables, of the TAPs there are, in one transaction: no
// packet meets half of them. nft(8) shows them as table bridge NAME, what may
// pass between ports, and table inet NAME, what may reach the host and be routed.
func (d *Driver) rules(br netlink.Link) error {
	list, err := sources(br)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyBridge, nftables.TableFamilyINet} {
		t := &nftables.Table{Family: family, Name: d.cfg.Name}
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		c.AddTable(t)
		if family == nftables.TableFamilyBridge {
			err = d.ports(c, t, list)
		} else {
			d.host(c, t)
		}
		if err != nil {
			return err
		}
	}
	return c.Flush()
}

func (d *Driver) chain(c *nftables.Conn, t *nftables.Table, name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
	ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: prio})
	return func(parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}
}

// ports holds every TAP to its source addresses, in what it sends and in what it
// claims by ARP, and keeps TAPs apart.
func (d *Driver) ports(c *nftables.Conn, t *nftables.Table, list []source) error {
	taps := &nftables.Set{Table: t, Name: "taps", KeyType: nftables.TypeIFName}
	triple, err := nftables.ConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	if err != nil {
		return err
	}
	allowed := &nftables.Set{Table: t, Name: "sources", KeyType: triple, Concatenation: true}
	var names, triples []nftables.SetElement
	for _, s := range list {
		names = append(names, nftables.SetElement{Key: ifname(s.tap)})
		triples = append(triples, nftables.SetElement{Key: slices.Concat(ifname(s.tap), s.mac, []byte{0, 0}, s.ip.AsSlice())})
	}
	if err := c.AddSet(taps, names); err != nil {
		return err
	}
	if err := c.AddSet(allowed, triples); err != nil {
		return err
	}
	fromTap := slices.Concat(meta(expr.MetaKeyIIFNAME), lookup(taps))
	toTap := slices.Concat(meta(expr.MetaKeyOIFNAME), lookup(taps))

	// Offsets: RFC 894 for Ethernet, RFC 791 for IPv4, RFC 826 for ARP over both.
	const ethSource, ipSource, arpSender, arpSenderIP = 6, 12, 8, 14
	in := d.chain(c, t, "sources", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(-300))
	triplet := func(base expr.PayloadBase, off uint32, macBase expr.PayloadBase, macOff uint32) []expr.Any {
		// 32-bit registers (NFT_REG32_00 = 8 on): four of a name, two of a MAC, one of an address.
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 8},
			&expr.Payload{DestRegister: 12, Base: macBase, Offset: macOff, Len: 6},
			&expr.Payload{DestRegister: 14, Base: base, Offset: off, Len: 4},
			&expr.Lookup{SourceRegister: 8, SetName: allowed.Name, SetID: allowed.ID},
		}
	}
	network, frame := expr.PayloadBaseNetworkHeader, expr.PayloadBaseLLHeader
	in(fromTap, protocol(unix.ETH_P_IP), triplet(network, ipSource, frame, ethSource), accept)
	// Both MACs of an ARP packet: the frame's and the one it tells others to use.
	in(fromTap, protocol(unix.ETH_P_ARP), triplet(network, arpSenderIP, frame, ethSource), triplet(network, arpSenderIP, network, arpSender), accept)
	in(fromTap, drop) // IPv6 too: guests have no such address
	between := d.chain(c, t, "between", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityRef(0))
	if !d.cfg.Peers {
		between(fromTap, toTap, drop)
	}
	return nil
}

// host closes the host to guests, routes what may be routed, and has it leave
// under the host's own address.
func (d *Driver) host(c *nftables.Conn, t *nftables.Table) {
	from, to := is(expr.MetaKeyIIFNAME, expr.CmpOpEq, ifname(d.cfg.Name)), is(expr.MetaKeyOIFNAME, expr.CmpOpEq, ifname(d.cfg.Name))
	away := is(expr.MetaKeyOIFNAME, expr.CmpOpNeq, ifname(d.cfg.Name))
	known := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}

	in := d.chain(c, t, "host", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	in(from, known, accept)
	in(from, is(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_ICMP}), accept) // a gateway that can't be pinged looks broken
	for _, port := range d.cfg.Ports {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			in(from, is(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{proto}), []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			}, accept)
		}
	}
	in(from, drop)

	through := d.chain(c, t, "routed", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	if d.cfg.Peers {
		through(from, to, accept)
	} else {
		through(from, to, drop)
	}
	if d.cfg.NAT {
		through(to, known, accept)
		through(to, drop) // nobody outside begins anything
		// Cloud metadata services live on the link-local net and believe whoever asks.
		through(from, destination([]byte{169, 254, 0, 0}, 16), drop)
		through(from, accept)
	} else {
		through(from, drop)
		through(to, drop)
	}

	out := d.chain(c, t, "nat", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	if d.cfg.NAT {
		out(prefix(12, d.cfg.Subnet.Addr().AsSlice(), d.cfg.Subnet.Bits()), away, []expr.Any{&expr.Masq{}})
	}
}

var (
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} // counted: who looks finds what is dropped
)

// ifname is a name as the kernel compares it: 16 bytes with zeros.
func ifname(s string) []byte { return append([]byte(s), bytes.Repeat([]byte{0}, 16-len(s))...) }

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func is(key expr.MetaKey, op expr.CmpOp, value []byte) []expr.Any {
	return append(meta(key), &expr.Cmp{Op: op, Register: 1, Data: value})
}

func lookup(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func protocol(p uint16) []expr.Any {
	return is(expr.MetaKeyPROTOCOL, expr.CmpOpEq, binaryutil.BigEndian.PutUint16(p))
}

func destination(net []byte, bits int) []expr.Any { return prefix(16, net, bits) }

// prefix compares the IPv4 address at an offset of the header with a subnet.
func prefix(offset uint32, net []byte, bits int) []expr.Any {
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - bits))
	return append(is(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net})
}
