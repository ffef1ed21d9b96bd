package vm_test

import (
	"fmt"
	"os"
	"os/exec"
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
	write(t, filepath.Join(conf, "resolv.conf"), "nameserver 192.0.2.2\n")

	serve(t, far, "192.0.2.2:8000")
	serve(t, near, "0.0.0.0:8000")
	serve(t, far, "dns:192.0.2.2:53")
	h, err := install(t.TempDir()) // outside, where the mirror is
	if err != nil {
		t.Fatal(err)
	}
	h.close()
	h.netns = near
	t.Cleanup(h.close)
	name := h.newVM(t)
	curl := func(url string) string {
		r := h.run(nil, "vm", "exec", name, "--", "curl", "-s", "-m", "5", url)
		return fmt.Sprintf("%d %s", r.status, r.stdout)
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
	off := h.newVM(t, "--net", "none")
	if got := h.ok(t, "vm", "exec", off, "--", "ls", "/sys/class/net"); got != "lo\n" {
		t.Errorf("--net none leaves the devices %q", got)
	}
}

// namespaces makes two network namespaces: near is 192.0.2.1, far beyond it 192.0.2.2.
func namespaces(t *testing.T) (near, far string) {
	t.Helper()
	n := serial.Add(1)
	near, far = fmt.Sprintf("bvm-n%d-%d", os.Getpid(), n), fmt.Sprintf("bvm-f%d-%d", os.Getpid(), n)
	for _, ns := range []string{near, far} {
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	ip(t, "-n", near, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far)
	ip(t, "-n", near, "addr", "add", "192.0.2.1/24", "dev", "v0")
	ip(t, "-n", far, "addr", "add", "192.0.2.2/24", "dev", "v1")
	ip(t, "-n", near, "link", "set", "v0", "up")
	ip(t, "-n", far, "link", "set", "v1", "up")
	return near, far
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
