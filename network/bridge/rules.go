package bridge

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/network/nearby"
)

// The rules are the same for every guest and every daemon: they close every port of the
// bridge and the host, and open what is in the sets. Each daemon of root puts its own
// guests into the sets, by its own settings, and leaves those of the others there.
//
// nft(8) shows them as table bridge NAME, for what passes between ports, and table inet
// NAME, for what goes to the host or is routed.

// The sets, by family and name as sets of a book.
const (
	setSources   = "bridge/sources"  // TAP, MAC, IPv4 address: what may come out of a port
	setNear      = "bridge/peers"    // TAPs whose guests reach each other
	setStrange   = "bridge/strange"  // ports that aren't TAPs of banger's
	setPeers     = "inet/peers"      // addresses of guests that reach each other
	setOutward   = "inet/outward"    // addresses of guests that reach what the host reaches
	setServices  = "inet/services"   // guest's address, protocol, port: what it reaches of the host
	setUplinks   = "inet/uplinks"    // the host's links with a default route
	setNeighbour = "inet/neighbours" // kinds of links behind which the host has neighbours of its own
)

// trusting are networks with services that give secrets to anyone on this host.
var trusting = append(nearby.Trusting(), netip.MustParsePrefix("169.254.0.0/16")) // link-local: most clouds' metadata

// book is the content of the tables: the elements of sets, and how many rules each chain
// has.
type book struct {
	sets  map[string]map[string]bool
	rules map[string]int
}

func (b book) put(set string, key ...[]byte) {
	if b.sets[set] == nil {
		b.sets[set] = map[string]bool{}
	}
	if len(key) > 0 {
		b.sets[set][string(slices.Concat(key...))] = true
	}
}

func (b book) same(other book) bool {
	return maps.EqualFunc(b.sets, other.sets, maps.Equal) && maps.Equal(b.rules, other.rules)
}

// rules makes the tables what they should be, in one transaction, so that they are never
// half made. If they are right, it changes nothing.
func (d *Driver) rules(br netlink.Link) error {
	ports, strange, err := portsOf(br)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	have, err := d.read(c)
	if err != nil {
		return err
	}
	want := book{sets: map[string]map[string]bool{}, rules: map[string]int{}}
	d.elements(want, ports, have)
	want.put(setStrange)
	for _, name := range strange {
		want.put(setStrange, ifname(name))
	}
	if err := uplinks(want); err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyBridge, nftables.TableFamilyINet} {
		w := writer{c: c, t: &nftables.Table{Family: family, Name: d.cfg.Name}, book: want}
		c.AddTable(w.t) // so that deleting it can't fail
		c.DelTable(w.t)
		c.AddTable(w.t)
		if family == nftables.TableFamilyBridge {
			err = w.between()
		} else {
			err = w.host(d.cfg.Name)
		}
		if err != nil {
			return err
		}
	}
	if d.wrote && have.same(want) {
		return nil
	}
	// The first time in any case: an earlier build may have written other rules.
	err = commit(c)
	d.wrote = err == nil
	return err
}

// commit sends a transaction to the kernel.
var commit = (*nftables.Conn).Flush

// elements puts our own guests into the sets by our settings, and takes over those of
// other daemons from the tables.
func (d *Driver) elements(want book, ports []port, have book) {
	for _, set := range []string{setSources, setNear, setPeers, setOutward, setServices} {
		want.put(set)
	}
	foreign := map[string]bool{} // names and addresses
	for _, p := range ports {
		ip := p.ip.AsSlice()
		if p.owner != d.owner() {
			foreign[string(ifname(p.tap))], foreign[string(ip)] = true, true
			continue
		}
		want.put(setSources, ifname(p.tap), p.mac, []byte{0, 0}, ip)
		if d.cfg.Peers {
			want.put(setNear, ifname(p.tap))
			want.put(setPeers, ip)
		}
		if d.cfg.NAT {
			want.put(setOutward, ip)
		}
		for _, n := range d.cfg.Ports {
			for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				want.put(setServices, ip, []byte{proto, 0, 0, 0}, binaryutil.BigEndian.PutUint16(n), []byte{0, 0})
			}
		}
	}
	for set, size := range map[string]int{setSources: 16, setNear: 16, setPeers: 4, setOutward: 4, setServices: 4} {
		for key := range have.sets[set] {
			if len(key) >= size && foreign[key[:size]] {
				want.put(set, []byte(key))
			}
		}
	}
}

// uplinks adds the links with a default route in any routing table, and the kinds of
// links that lead to the host's neighbours.
func uplinks(want book) error {
	want.put(setUplinks)
	for _, kind := range nearby.Kinds() {
		want.put(setNeighbour, ifname(kind))
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	add := func(index int) {
		if l, err := netlink.LinkByIndex(index); err == nil { // else it was removed meanwhile
			want.put(setUplinks, ifname(l.Attrs().Name))
		}
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if r.LinkIndex != 0 {
			add(r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			add(hop.LinkIndex)
		}
	}
	return nil
}

// read returns the content of our tables; of a missing table, nothing. An error has it
// read again: somebody may have removed a table meanwhile, which the library's errors
// don't tell from other errors.
func (d *Driver) read(c *nftables.Conn) (b book, err error) {
	for range 3 {
		if b, err = d.readOnce(c); err == nil {
			break
		}
	}
	return b, err
}

func (d *Driver) readOnce(c *nftables.Conn) (book, error) {
	b := book{sets: map[string]map[string]bool{}, rules: map[string]int{}}
	tables, err := c.ListTables()
	if err != nil {
		return b, err
	}
	for _, t := range tables {
		prefix, ok := map[nftables.TableFamily]string{nftables.TableFamilyBridge: "bridge/", nftables.TableFamilyINet: "inet/"}[t.Family]
		if !ok || t.Name != d.cfg.Name {
			continue
		}
		if err := readTable(c, t, prefix, b); err != nil {
			return b, fmt.Errorf("read it: %w", err)
		}
	}
	return b, nil
}

func readTable(c *nftables.Conn, t *nftables.Table, prefix string, b book) error {
	sets, err := c.GetSets(t)
	if err != nil {
		return err
	}
	for _, s := range sets {
		if s.Anonymous {
			continue
		}
		b.put(prefix + s.Name)
		list, err := c.GetSetElements(s)
		if err != nil {
			return err
		}
		for _, e := range list {
			b.put(prefix+s.Name, e.Key)
		}
	}
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		list, err := c.GetRules(t, ch)
		if err != nil {
			return err
		}
		b.rules[prefix+ch.Name] = len(list)
	}
	return nil
}

// writer makes the rules and sets of one table. Its book has the sets' elements.
type writer struct {
	c *nftables.Conn
	t *nftables.Table
	book
}

func (w writer) prefix() string {
	if w.t.Family == nftables.TableFamilyBridge {
		return "bridge/"
	}
	return "inet/"
}

// set makes a set with its elements.
func (w writer) set(name string, types ...nftables.SetDatatype) (*nftables.Set, error) {
	s := &nftables.Set{Table: w.t, Name: name[len(w.prefix()):], KeyType: types[0]}
	if len(types) > 1 {
		var err error
		if s.KeyType, err = nftables.ConcatSetType(types...); err != nil {
			return nil, err
		}
		s.Concatenation = true
	}
	var list []nftables.SetElement
	for _, key := range slices.Sorted(maps.Keys(w.sets[name])) {
		list = append(list, nftables.SetElement{Key: []byte(key)})
	}
	return s, w.c.AddSet(s, list)
}

func (w writer) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
	ch := w.c.AddChain(&nftables.Chain{Name: name, Table: w.t, Type: typ, Hooknum: hook, Priority: prio})
	w.rules[w.prefix()+name] = 0
	return func(parts ...[]expr.Any) {
		w.c.AddRule(&nftables.Rule{Table: w.t, Chain: ch, Exprs: slices.Concat(parts...)})
		w.rules[w.prefix()+name]++
	}
}

// between lets a TAP send only from its own addresses, in frames and in ARP, and keeps
// TAPs apart. Other ports of the bridge may send nothing.
func (w writer) between() error {
	sources, err := w.set(setSources, nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	if err != nil {
		return err
	}
	peers, err := w.set(setNear, nftables.TypeIFName)
	if err != nil {
		return err
	}
	// Offsets: RFC 894 for Ethernet, RFC 791 for IPv4, RFC 826 for ARP over both.
	const ethSource, ipSource, arpSender, arpSenderIP = 6, 12, 8, 14
	strange, err := w.set(setStrange, nftables.TypeIFName)
	if err != nil {
		return err
	}
	// Match TAPs by the beginning of their name, so that one that isn't in a set may send
	// nothing. (Matching the bridge itself takes a module that not all kernels have.)
	fromTap, toTap := is(expr.MetaKeyIIFNAME, expr.CmpOpEq, []byte(tapPrefix)), is(expr.MetaKeyOIFNAME, expr.CmpOpEq, []byte(tapPrefix))
	in := w.chain("sources", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(-300))
	triplet := func(base expr.PayloadBase, off uint32, macBase expr.PayloadBase, macOff uint32) []expr.Any {
		// 32-bit registers (NFT_REG32_00 = 8 on): four of a name, two of a MAC, one of an address.
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 8},
			&expr.Payload{DestRegister: 12, Base: macBase, Offset: macOff, Len: 6},
			&expr.Payload{DestRegister: 14, Base: base, Offset: off, Len: 4},
			&expr.Lookup{SourceRegister: 8, SetName: sources.Name, SetID: sources.ID},
		}
	}
	network, frame := expr.PayloadBaseNetworkHeader, expr.PayloadBaseLLHeader
	in(fromTap, protocol(unix.ETH_P_IP), triplet(network, ipSource, frame, ethSource), accept)
	// Both MACs of an ARP packet: the frame's and the one it tells others to use.
	in(fromTap, protocol(unix.ETH_P_ARP), triplet(network, arpSenderIP, frame, ethSource), triplet(network, arpSenderIP, network, arpSender), accept)
	in(fromTap, drop) // IPv6, too: guests have no IPv6 address
	in(meta(expr.MetaKeyIIFNAME), lookup(strange), drop)
	between := w.chain("between", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityRef(0))
	between(meta(expr.MetaKeyIIFNAME), lookup(peers), meta(expr.MetaKeyOIFNAME), lookup(peers), accept)
	between(fromTap, drop)
	between(toTap, drop)
	return nil
}

// hostSets are the sets of table inet.
type hostSets struct{ peers, outward, services, uplinks, neighbours *nftables.Set }

func (w writer) hostSets() (h hostSets, err error) {
	for _, s := range []struct {
		at    **nftables.Set
		name  string
		types []nftables.SetDatatype
	}{
		{&h.peers, setPeers, []nftables.SetDatatype{nftables.TypeIPAddr}},
		{&h.outward, setOutward, []nftables.SetDatatype{nftables.TypeIPAddr}},
		{&h.services, setServices, []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}},
		{&h.uplinks, setUplinks, []nftables.SetDatatype{nftables.TypeIFName}},
		{&h.neighbours, setNeighbour, []nftables.SetDatatype{nftables.TypeIFName}},
	} {
		if *s.at, err = w.set(s.name, s.types...); err != nil {
			return h, err
		}
	}
	return h, nil
}

// host closes the host to guests, routes what may be routed, and translates its source
// to the host's own address.
func (w writer) host(bridge string) error {
	s, err := w.hostSets()
	if err != nil {
		return err
	}
	from, to := is(expr.MetaKeyIIFNAME, expr.CmpOpEq, ifname(bridge)), is(expr.MetaKeyOIFNAME, expr.CmpOpEq, ifname(bridge))
	away := is(expr.MetaKeyOIFNAME, expr.CmpOpNeq, ifname(bridge))
	known := state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	// Offsets of RFC 791.
	source := func(s *nftables.Set) []expr.Any { return slices.Concat(address(12), lookup(s)) }
	dest := func(s *nftables.Set) []expr.Any { return slices.Concat(address(16), lookup(s)) }

	few := w.few()
	in := w.chain("host", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	in(from, known, accept)
	in(from, few)
	in(from, is(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_ICMP}), accept) // people ping the gateway to see whether the network works
	in(from, is(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}), []expr.Any{
		// 32-bit registers, one each.
		&expr.Payload{DestRegister: 8, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 9},
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 8, SetName: s.services.Name, SetID: s.services.ID},
	}, accept)
	in(from, drop)

	through := w.chain("routed", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	through(from, few)
	through(from, to, source(s.peers), dest(s.peers), accept)
	through(from, to, drop)
	through(to, dest(s.outward), known, accept)
	through(to, drop) // nobody outside may open a connection to a guest
	for _, net := range trusting {
		through(from, destination(net), drop)
	}
	through(from, meta(metaOIFKIND), lookup(s.neighbours), meta(expr.MetaKeyOIFNAME), lacks(s.uplinks), drop)
	through(from, source(s.outward), accept)
	through(from, drop)

	out := w.chain("nat", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	out(source(s.outward), away, []expr.Any{&expr.Masq{}})
	return nil
}

// The host remembers each connection that it routes, in one table for all
// (nf_conntrack_max). A guest that fills it would take the network from the host and
// from all guests, so each may have so many connections at a time, and begin so many a
// second: those that have ended are remembered for two minutes.
const (
	maxConnections = 4096
	maxBegun       = 500
)

// few makes the chain that drops what is beyond that, and returns the jump there.
func (w writer) few() []expr.Any {
	bound := w.chain("few", "", nil, nil)
	for _, key := range slices.Sorted(maps.Keys(w.sets[setSources])) {
		from := append(address(12), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(key[len(key)-4:])})
		bound(from, []expr.Any{&expr.Connlimit{Count: maxConnections, Flags: expr.NFT_CONNLIMIT_F_INV}}, drop)
		bound(from, []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: maxBegun, Unit: expr.LimitTimeSecond, Burst: maxConnections, Over: true}}, drop)
	}
	return append(state(expr.CtStateBitNEW), &expr.Verdict{Kind: expr.VerdictJump, Chain: "few"})
}

// state matches packets of connections in one of these states.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// metaOIFKIND is NFT_META_OIFKIND (linux/netfilter/nf_tables.h), which the library lacks.
const metaOIFKIND expr.MetaKey = 27

var (
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} // counted, so that people can see what is dropped
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

func lacks(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: true}}
}

func protocol(p uint16) []expr.Any {
	return is(expr.MetaKeyPROTOCOL, expr.CmpOpEq, binaryutil.BigEndian.PutUint16(p))
}

// address loads the IPv4 address at an offset of the header.
func address(offset uint32) []expr.Any {
	return append(is(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4})
}

// destination compares the destination with a subnet.
func destination(net netip.Prefix) []expr.Any {
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - net.Bits()))
	return append(address(16),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.Addr().AsSlice()})
}
