package vm_test

import (
	"banger/test/vmtest"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A whole installation in a network namespace, with a server beyond it: the
// guest reaches the server and its name, and nothing of the host.
func TestUserNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	near, far := namespaces(t)
	// ip-netns(8) puts this file in the place of /etc/resolv.conf.
	conf := filepath.Join("/etc/netns", near)
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(conf); _ = os.Remove("/etc/netns") })
	vmtest.Write(t, filepath.Join(conf, "resolv.conf"), "nameserver 192.0.2.2\n")

	serve(t, far, "192.0.2.2:8000")
	serve(t, near, "0.0.0.0:8000")
	serve(t, far, "dns:192.0.2.2:53")
	h, err := vmtest.Install(t.TempDir()) // outside, where the mirror is
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	h.Netns = near
	t.Cleanup(h.Close)
	name := h.NewVM(t)
	curl := func(url string) string {
		r := h.Run(nil, "vm", "exec", name, "--", "curl", "-s", "-m", "5", url)
		return fmt.Sprintf("%d %s", r.Status, r.Stdout)
	}
	for _, url := range []string{"http://192.0.2.2:8000/", "http://far.example:8000/"} {
		if got := curl(url); got != "0 served\n" {
			t.Errorf("curl %s: %q", url, got)
		}
	}
	for _, url := range []string{"http://192.0.2.1:8000/", "http://10.0.2.2:8000/", "http://10.0.2.3:8000/"} {
		if got := curl(url); strings.HasPrefix(got, "0 ") {
			t.Errorf("curl %s reached the host: %q", url, got)
		}
	}
	off := h.NewVM(t, "--net", "none")
	if got := h.OK(t, "vm", "exec", off, "--", "ls", "/sys/class/net"); got != "lo\n" {
		t.Errorf("--net none leaves the devices %q", got)
	}
}

// namespaces makes two network namespaces: near is 192.0.2.1, far beyond it 192.0.2.2.
func namespaces(t *testing.T) (near, far string) {
	t.Helper()
	n := vmtest.Serial()
	near, far = fmt.Sprintf("bvm-n%d-%d", os.Getpid(), n), fmt.Sprintf("bvm-f%d-%d", os.Getpid(), n)
	for _, ns := range []string{near, far} {
		vmtest.IP(t, "netns", "add", ns)
		t.Cleanup(func() { vmtest.IP(t, "netns", "del", ns) })
		vmtest.IP(t, "-n", ns, "link", "set", "lo", "up")
	}
	vmtest.IP(t, "-n", near, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far)
	vmtest.IP(t, "-n", near, "addr", "add", "192.0.2.1/24", "dev", "v0")
	vmtest.IP(t, "-n", far, "addr", "add", "192.0.2.2/24", "dev", "v1")
	vmtest.IP(t, "-n", near, "link", "set", "v0", "up")
	vmtest.IP(t, "-n", far, "link", "set", "v1", "up")
	vmtest.IP(t, "-n", near, "route", "add", "default", "via", "192.0.2.2") // it leads to the world, or it would be closed as containers are
	return near, far
}
