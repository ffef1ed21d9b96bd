package bridge_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
	"banger/network/bridge"
)

func flush(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	c.FlushRuleset()
	must(t, c.Flush())
}

// tables returns how many rules each chain of our tables has, and elements each set.
// While tables come and go it may be nil.
func tables(t *testing.T) map[string]int {
	t.Helper()
	have, err := look()
	if err != nil && strings.Contains(err.Error(), unix.ENOENT.Error()) {
		return nil
	}
	must(t, err)
	return have
}

func look() (map[string]int, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	have := map[string]int{}
	for _, ch := range chains {
		if ch.Table.Name != "banger0" {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, err
		}
		have[ch.Name] = len(rules)
	}
	list, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	for _, table := range list {
		if table.Name != "banger0" {
			continue
		}
		sets, err := c.GetSets(table)
		if err != nil {
			return nil, err
		}
		for _, s := range sets {
			elements, err := c.GetSetElements(s)
			if err != nil {
				return nil, err
			}
			have[fmt.Sprint("set ", table.Family, s.Name)] = len(elements)
		}
	}
	return have, nil
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// watch runs a driver's Watch until the test ends, and returns what it tells.
func watch(t *testing.T, d *bridge.Driver) <-chan error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	told, over := make(chan error, 100), make(chan struct{})
	go func() { defer close(over); d.Watch(ctx, func(err error) { told <- err }) }()
	t.Cleanup(func() { stop(); <-over })
	return told
}

func gateway(t *testing.T) string {
	t.Helper()
	br, err := netlink.LinkByName("banger0")
	must(t, err)
	return br.Attrs().HardwareAddr.String()
}

// Guests remember their gateway's MAC: no VM that comes or goes may change it, on a
// bridge that an earlier build made neither.
func TestGatewayKeepsItsMAC(t *testing.T) {
	for _, c := range []struct {
		what  string
		there bool
	}{{"a new bridge", false}, {"a bridge of before", true}} {
		t.Run(c.what, func(t *testing.T) {
			d := open(t, base)
			if c.there {
				br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "banger0"}}
				must(t, netlink.LinkAdd(br))
				must(t, netlink.LinkSetAlias(br, "banger bridge"))
				a := netlink.NewLinkAttrs()
				a.Name, a.MasterIndex = "bgrffffffffffff", br.Attrs().Index
				must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: a, Mode: netlink.TUNTAP_MODE_TAP}))
				before := gateway(t)
				must(t, d.Assert(t.Context()))
				if got := gateway(t); got != before {
					t.Errorf("it was %s and is %s: guests that run lose their gateway", before, got)
				}
			}
			var taken []banger.NetConfig
			set := func(i int) {
				side, err := d.Allocate(taken)
				must(t, err)
				side.MAC = fmt.Sprintf("02:00:00:00:00:%02x", i)
				taken = append(taken, side)
				_, err = d.Set(t.Context(), banger.Link{VM: fmt.Sprintf("0123456789%02x", i), Net: side})
				must(t, err)
			}
			set(0)
			want := gateway(t)
			for i := 1; i < 12; i++ {
				set(i)
			}
			for i := range 12 {
				_, err := d.CleanUp(t.Context(), fmt.Sprintf("0123456789%02x", i), banger.Handles{})
				must(t, err)
				if got := gateway(t); got != want {
					t.Fatalf("after VM %d left it is %s, and was %s", i, got, want)
				}
			}
		})
	}
}

// Whoever restarts the host's firewall takes our tables away: they come back, and
// meanwhile neighbours stay apart.
func TestFlushedTablesComeBack(t *testing.T) {
	d := open(t, base)
	far := outside(t)
	a, side := newGuest(t, d, "0123456789a1")
	b, _ := newGuest(t, d, "0123456789a2", side)
	whole := tables(t)
	back := func() bool { return maps.Equal(tables(t), whole) }
	flush(t)
	a.send(a.mac, b.mac, a.ip, b.ip, 7, "without tables")
	say(t, b.ip.String()+":7", "END")
	if b.sees("without tables", "END") {
		t.Error("a neighbour is reached while there are no tables")
	}
	told := watch(t, d)
	for range 3 {
		await(t, "the tables are back", back)
		a.send(a.mac, a.gwM, b.ip, server, 7, "lie")
		a.send(a.mac, a.gwM, a.ip, server, 7, "truth")
		if hears(t, far, "lie", "truth") != "" {
			t.Error("a guest lies under tables that came back")
		}
		flush(t)
	}
	await(t, "the tables are back", back)
	// Half of them, too.
	c, err := nftables.New()
	must(t, err)
	c.FlushTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "banger0"})
	must(t, c.Flush())
	await(t, "the rules are back", back)
	select {
	case err := <-told:
		t.Errorf("it was told: %v", err)
	default:
	}
}

// Tables that somebody removes while they are read are read anew: that is no reason to
// cut guests off.
func TestFlushedWhileRead(t *testing.T) {
	d := open(t, base)
	newGuest(t, d, "0123456789a1")
	over := make(chan struct{})
	var flushing sync.WaitGroup
	flushing.Go(func() {
		c, err := nftables.New()
		for err == nil {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
			c.FlushRuleset()
			err = c.Flush()
		}
		t.Error(err)
	})
	for range 60 {
		if err := d.Assert(t.Context()); err != nil {
			t.Error(err)
			break
		}
	}
	close(over)
	flushing.Wait()
	must(t, d.Assert(t.Context()))
	if len(tables(t)) == 0 {
		t.Error("there are no tables")
	}
}

// refused has the kernel refuse all changes of tables until giveUp is called.
func refused(t *testing.T) (giveUp func()) {
	var over atomic.Bool
	bridge.Refuse(func() error {
		if over.Load() {
			return nil
		}
		return unix.EPERM
	})
	t.Cleanup(func() { over.Store(true) })
	return func() { over.Store(true) }
}

// Where the tables can't be put back guests are cut off, until they can.
func TestCutOffWithoutTables(t *testing.T) {
	d := open(t, base)
	a, _ := newGuest(t, d, "0123456789a1")
	up := func() bool {
		l, err := netlink.LinkByName(a.name)
		must(t, err)
		return l.Attrs().Flags&net.FlagUp != 0
	}
	whole := tables(t)
	flush(t)
	giveUp := refused(t)
	told := watch(t, d)
	if err := <-told; err == nil || !strings.Contains(err.Error(), "nftables table banger0") {
		t.Errorf("told: %v", err)
	}
	if up() {
		t.Error("a guest without rules has its network")
	}
	giveUp()
	c, err := nftables.New()
	must(t, err)
	c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "somebody's"})
	must(t, c.Flush()) // it hears of that, and tries again
	for err := range told {
		if err == nil {
			break
		}
	}
	if got := tables(t); !up() || !maps.Equal(got, whole) {
		t.Errorf("after that: up %v, %v, want %v", up(), got, whole)
	}
}

// The host routes only once the rules stand.
func TestRoutesAfterItsRules(t *testing.T) {
	d := open(t, base)
	const path = "/proc/sys/net/ipv4/ip_forward"
	must(t, os.WriteFile(path, []byte("0\n"), 0o644))
	giveUp := refused(t)
	defer giveUp()
	side, err := d.Allocate(nil)
	must(t, err)
	side.MAC = "02:00:00:00:00:01"
	if _, err := d.Set(t.Context(), banger.Link{VM: "0123456789a1", Net: side}); err == nil {
		t.Error("set without its rules")
	}
	if is, err := os.ReadFile(path); err != nil || string(is) != "0\n" {
		t.Errorf("the host routes: %q, %v", is, err)
	}
}

// A TAP on the bridge that no set names sends nothing, nor does what else is there.
func TestUnnamedPortIsClosed(t *testing.T) {
	d := open(t, base)
	far := outside(t)
	g, _ := newGuest(t, d, "0123456789a1")
	br, err := netlink.LinkByName("banger0")
	must(t, err)
	for _, name := range []string{"bgrffffffffffff", "bangertap"} {
		a := netlink.NewLinkAttrs()
		a.Name, a.MasterIndex = name, br.Attrs().Index
		tap := &netlink.Tuntap{LinkAttrs: a, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}
		must(t, netlink.LinkAdd(tap))
		must(t, netlink.LinkSetUp(tap))
		fd := attach(t, name)
		x := &guest{t: t, fd: fd, name: name}
		if name == "bangertap" {
			must(t, d.Assert(t.Context())) // a strange name is only known when it was seen
		}
		x.send(g.mac, g.gwM, g.ip, server, 7, "from "+name)
		g.send(g.mac, g.gwM, g.ip, server, 7, "end of "+name)
		if hears(t, far, "from "+name, "end of "+name) != "" {
			t.Errorf("%s is heard outside", name)
		}
	}
}

// Two daemons of root share the bridge: each guest has what its own daemon's
// settings give, whoever changes the tables, and nobody puts back what the other
// just did.
func TestTwoDaemons(t *testing.T) {
	d := open(t, base)
	closed := base
	closed.Owner, closed.NAT = "/another", false
	closed.Ports = []uint16{5353}
	other := open(t, closed)
	var written atomic.Int64
	bridge.Refuse(func() error { written.Add(1); return nil })
	far := outside(t)
	a, _ := newGuest(t, d, "0123456789a1")
	b, second := newGuest(t, other, "0123456789b2")
	if b.ip == a.ip {
		t.Fatal("both daemons gave one address")
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5353})
	must(t, err)
	defer func() { must(t, c.Close()) }()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	holds := func(when string) {
		t.Helper()
		b.send(b.mac, b.gwM, b.ip, server, 7, "closed one "+when)
		a.send(a.mac, a.gwM, a.ip, server, 7, "open one "+when)
		if got := hears(t, far, "closed one "+when, "open one "+when); got != "" {
			t.Errorf("%s: a guest without NAT is heard from %s", when, got)
		}
		gw := netip.MustParseAddr("10.213.0.1")
		a.send(a.mac, a.gwM, a.ip, gw, 5353, "closed one "+when)
		b.send(b.mac, b.gwM, b.ip, gw, 5353, "open one "+when)
		if got := hears(t, c, "closed one "+when, "open one "+when); got != "" {
			t.Errorf("%s: a guest reaches a port of the host that only the other daemon opened", when)
		}
	}
	holds("at first")
	_, err = d.CleanUp(t.Context(), "0123456789c3", banger.Handles{})
	must(t, err)
	holds("after a change of the first")
	must(t, other.Assert(t.Context()))
	holds("after a change of the second")
	whole := tables(t)
	watch(t, d)
	watch(t, other)
	flush(t)
	await(t, "both put theirs back", func() bool { return maps.Equal(tables(t), whole) })
	holds("after a flush")
	before := written.Load()
	must(t, d.Assert(t.Context()))
	must(t, other.Assert(t.Context()))
	if n := written.Load() - before; n > 0 {
		t.Errorf("the tables were made anew %d times though nothing had changed", n)
	}
	second.MAC = "02:00:00:00:00:99"
	if _, err := d.Set(t.Context(), banger.Link{VM: "0123456789a9", Net: second}); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("an address that a guest of the other daemon has: %v", err)
	}
}

// Guests reach neither what trusts their host, nor the host's own containers.
func TestTrustingNetsAreClosed(t *testing.T) {
	d := open(t, base)
	far := outside(t)
	a, _ := newGuest(t, d, "0123456789a1")
	for _, to := range []string{"169.254.169.254", "192.0.0.192", "100.100.100.200", "168.63.129.16"} {
		// The server has all of these addresses: its namespace takes any.
		a.send(a.mac, a.gwM, a.ip, netip.MustParseAddr(to), 7, "to "+to)
		a.send(a.mac, a.gwM, a.ip, server, 7, "end of "+to)
		if hears(t, far, "to "+to, "end of "+to) != "" {
			t.Errorf("%s is reached", to)
		}
	}
	containers := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "up1"}}
	must(t, netlink.LinkAdd(containers))
	defer func() { must(t, netlink.LinkDel(containers)) }()
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(containers, addr))
	must(t, netlink.LinkSetUp(containers))
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: containers.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(198, 51, 100, 9), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}))
	frames := func() uint64 {
		l, err := netlink.LinkByName("up1")
		must(t, err)
		return l.Attrs().Statistics.TxPackets
	}
	quiet := frames()
	for range 20 {
		a.send(a.mac, a.gwM, a.ip, netip.MustParseAddr("198.51.100.9"), 7, "to a container")
	}
	a.send(a.mac, a.gwM, a.ip, server, 7, "end")
	hears(t, far, "", "end")
	if n := frames(); n >= quiet+20 {
		t.Errorf("%d frames went to a bridge of containers", n-quiet)
	}
}

// Another table's chain that drops what is routed is found, until it knows the bridge.
func TestObstacles(t *testing.T) {
	open(t, base)
	c, err := nftables.New()
	must(t, err)
	filter := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	c.AddTable(filter)
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	forward := c.AddChain(&nftables.Chain{Name: "FORWARD", Table: filter, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	c.AddChain(&nftables.Chain{Name: "INPUT", Table: filter, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	c.AddChain(&nftables.Chain{Name: "LATER", Table: filter, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	must(t, c.Flush())
	if got, err := bridge.Obstacles("banger0"); err != nil || !slices.Equal(got, []string{"chain FORWARD of table ip filter"}) {
		t.Errorf("%q, %v", got, err)
	}
	c.AddRule(&nftables.Rule{Table: filter, Chain: forward, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("banger0"), bytes.Repeat([]byte{0}, 9)...)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
	must(t, c.Flush())
	if got, err := bridge.Obstacles("banger0"); err != nil || len(got) != 0 {
		t.Errorf("though it knows the bridge: %q, %v", got, err)
	}
}

// attach opens a TAP's other end.
func attach(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	await(t, name+" comes up", func() bool {
		l, err := netlink.LinkByName(name)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	})
	return fd
}
