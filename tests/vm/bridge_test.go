package vm_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"banger"
)

// serveHere is the environment's variable that makes a program of this binary which
// serves, without an installation.
const serveHere = "BANGER_TEST_SERVE"

// TestServe is no test: it is what serve runs in another namespace.
func TestServe(t *testing.T) {
	addr := os.Getenv(serveHere)
	if addr == "" {
		t.Skip("a part of other tests")
	}
	if addr, names := strings.CutPrefix(addr, "dns:"); names {
		t.Fatal(serveNames(addr))
	}
	fmt.Println("ready")
	t.Fatal(http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, "served")
	})))
}

// serveNames answers that every name's address is 192.0.2.2, and to other questions nothing.
func serveNames(addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	buf := make([]byte, 2048)
	for {
		n, who, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
			continue // what isn't a question gets no answer
		}
		q := m.Questions[0]
		m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 2}},
			}}
		}
		answer, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(answer, who); err != nil {
			return err
		}
	}
}

// serve has a web server in a network namespace, or with dns: before its address a
// name server.
func serve(t *testing.T, ns, addr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command("ip", "netns", "exec", ns, self, "-test.run=^TestServe$")
	server.Env = append(os.Environ(), serveHere+"="+addr)
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil { // "ready"
		t.Fatal(err)
	}
}

// Two VMs on the bridge of a host that is a network namespace, with a server beyond
// it: what config.toml allows they reach, and nothing else. What it says holds for
// VMs that run, once the daemon was restarted.
func TestBridgeNetwork(t *testing.T) {
	if *network != "bridge" {
		t.Skip("not run: it takes some minutes: -net bridge")
	}
	if os.Geteuid() != 0 {
		t.Skip("not run: links and nftables need root")
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skip("not run: ", err)
	} else {
		_ = f.Close()
	}
	near, far := namespaces(t)
	dir := t.TempDir()
	h, err := install(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.close()
	h.netns = near
	t.Cleanup(h.close)
	serve(t, far, "192.0.2.2:8000")
	serve(t, near, "0.0.0.0:8000")
	serve(t, near, "0.0.0.0:8001")
	config := func(lines ...string) {
		t.Helper()
		lines = append(lines, "warm_start = false", fmt.Sprintf("disk_driver = %q", *diskDriver))
		write(t, filepath.Join(dir, "config/banger/config.toml"), onHypervisor()+strings.Join(lines, "\n")+"\n")
		h.close()
	}
	config("net = 'bridge'")
	one, two := h.newVM(t), h.newVM(t)
	address := func(vm banger.VM) string { a, _, _ := strings.Cut(vm.Net.Address, "/"); return a }
	first, second := h.show(t, one), h.show(t, two)
	if address(first) == address(second) || first.Net.Mode != banger.NetBridge {
		t.Fatalf("the VMs have %+v and %+v", first.Net, second.Net)
	}
	// curl(1): 0 it was served, 7 nobody listens there, 28 nobody answered.
	const served, refused, silent = 0, 7, 28
	where := map[string]string{
		"outside": "192.0.2.2:8000", "the other VM": address(second) + ":8000",
		"the host": first.Net.Gateway + ":8000", "the host's other port": first.Net.Gateway + ":8001", "the host's other address": "192.0.2.1:8001",
	}
	for _, c := range []struct {
		config []string
		want   map[string]int
	}{
		{nil, map[string]int{"outside": served}},
		{[]string{"bridge_nat = false"}, nil},
		{[]string{"bridge_peers = true"}, map[string]int{"outside": served, "the other VM": refused}},
		{[]string{"bridge_nat = false", "bridge_ports = [8000]"}, map[string]int{"the host": served}},
	} {
		config(append(c.config, "net = 'bridge'")...)
		for what, addr := range where {
			want, opened := c.want[what]
			if !opened {
				want = silent
			}
			got := h.run(nil, "vm", "exec", one, "--", "curl", "-s", "-m", "2", "http://"+addr+"/").status
			if got != want {
				t.Errorf("%v: %s: curl ends with %d, want %d", c.config, what, got, want)
			}
		}
		if now := h.show(t, one); now.Boots != first.Boots || now.Held != first.Held {
			t.Errorf("%v: it isn't the run it was: %+v", c.config, now.Held)
		}
	}
}
