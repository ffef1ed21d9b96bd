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
	"banger/test/vmtest"
)

// serveHere is the environment's variable that makes a program of this binary which
// serves, without an installation: an address, with dns: before it a name server's.
const serveHere = "BANGER_TEST_SERVE"

func TestMain(m *testing.M) {
	if addr := os.Getenv(serveHere); addr != "" {
		fmt.Fprintln(os.Stderr, serveAt(addr))
		os.Exit(1)
	}
	vmtest.Main(m)
}

func serveAt(addr string) error {
	if addr, names := strings.CutPrefix(addr, "dns:"); names {
		return serveNames(addr)
	}
	fmt.Println("ready")
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, "served")
	}))
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
	server := exec.Command("ip", "netns", "exec", ns, self)
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
	if *vmtest.Network != "bridge" {
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
	h, err := vmtest.Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	h.Netns = near
	t.Cleanup(h.Close)
	serve(t, far, "192.0.2.2:8000")
	serve(t, near, "0.0.0.0:8000")
	serve(t, near, "0.0.0.0:8001")
	config := func(lines ...string) {
		t.Helper()
		lines = append(lines, "warm_start = false", fmt.Sprintf("disk_driver = %q", *vmtest.DiskDriver))
		vmtest.Write(t, filepath.Join(dir, "config/banger/config.toml"), "memory_mib = 1024\n"+vmtest.OnHypervisor()+strings.Join(lines, "\n")+"\n")
		h.Close()
	}
	config("net = 'bridge'")
	one, two := h.NewVM(t), h.NewVM(t)
	address := func(vm banger.VM) string { a, _, _ := strings.Cut(vm.Net.Address, "/"); return a }
	first, second := h.Show(t, one), h.Show(t, two)
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
			got := h.Run(nil, "vm", "exec", one, "--", "curl", "-s", "-m", "2", "http://"+addr+"/").Status
			if got != want {
				t.Errorf("%v: %s: curl ends with %d, want %d", c.config, what, got, want)
			}
		}
		if now := h.Show(t, one); now.Boots != first.Boots || now.Held != first.Held {
			t.Errorf("%v: it isn't the run it was: %+v", c.config, now.Held)
		}
	}
}
