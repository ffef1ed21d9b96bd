package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/config"
)

// load reads a config.toml with the text, in a home of its own.
func load(t *testing.T, text string) (config.Config, string, error) {
	t.Helper()
	home := t.TempDir()
	path := filepath.Join(home, ".config/banger/config.toml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, dirs, err := config.Load(func(key string) string { return map[string]string{"HOME": home}[key] })
	return c, dirs.Socket, err
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ text, fact, hint string }{
		{"memroy_mib = 512", `there is no setting "memroy_mib"`, "did you mean memory_mib?"},
		{"memory = 512", `there is no setting "memory"`, "did you mean memory_mib?"},
		{"colour = 'red'", `there is no setting "colour"`, "the settings are default_image,"},
		{"[vm]\nvcpu = 1", `there is no setting "vm`, ""},
		{"vcpu = -1", "vcpu is -1; it can be 0 to", ""},
		{"memory_mib = 1", "memory_mib, unless it is 0, is 1; it can be", ""},
		{"disk_mib = -5", "disk_mib is -5; it can be", ""},
		{"boot_deadline = '0s'", `boot_deadline is "0s"; it can be a time such as 90s or 3m, one second at least`, ""},
		{"auto_stop_stale_after = '2'", `auto_stop_stale_after is "2"; it can be a time such as 90m or 2h, one second at least, or 0 for never`, ""},
		{"auto_stop_stale_after = '1ms'", `auto_stop_stale_after is "1ms"`, ""},
		{"log_level = 'loud'", `log_level is "loud"; it can be debug, info, warn or error`, ""},
		{"hypervisor = 'xen'", `hypervisor is "xen"; it can be auto, firecracker, qemu`, ""},
		{"firecracker = 'bin/firecracker'", `firecracker is "bin/firecracker"; it must be an absolute path`, ""},
		{"guest_ca = 'ca.pem'", `guest_ca is "ca.pem"; it must be an absolute path`, ""},
		{"guest_proxy = 'proxy:3128'", `guest_proxy is "proxy:3128"; it can be host, or a URL such as http://`, ""},
		{"guest_proxy = 'ftp://proxy'", `guest_proxy is "ftp://proxy"`, ""},
		{"disk_driver = 'floppy'", `disk_driver is "floppy"; it can be file, dm-snapshot`, ""},
		{"net = 'avian'", `net is "avian"; it can be user, bridge, none`, ""},
		{"bridge_ports = [53, 0]", "bridge_ports has 0; a port can be 1 to 65535", ""},
		{"bridge_ports = [70000]", "bridge_ports has 70000", ""},
		{"registry_mirrors = ['mirror.example']", `registry_mirrors has "mirror.example"; it can be REGISTRY=MIRROR`, ""},
		{"registry_mirrors = ['docker.io=https://mirror.example']", "registry_mirrors has", ""},
		{"image_max_gib = 513", "image_max_gib is 513; it can be 1 to 512", ""},
		{"image_max_entries = 0", "image_max_entries is 0; it can be 1 to 1572864", ""},
		{"image_leave_free_mib = -1", "image_leave_free_mib is -1; it can be 1 to", ""},
		{"state_dir = 'here'", `state_dir is "here"; it must be an absolute path`, ""},
		{"\nvcpu = ", "config.toml: line 2: ", ""},
		{"vcpu = 'two'", "config.toml: ", ""},
	} {
		_, _, err := load(t, c.text)
		if err == nil || banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), c.fact) {
			t.Errorf("%q: %v, want %q", c.text, err, c.fact)
			continue
		}
		if e := err.(*banger.Error); !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%q: hint %q, want %q", c.text, e.Hint, c.hint)
		}
	}
}

// Every value says where it came from; the directories decide the socket.
func TestProvenance(t *testing.T) {
	c, socket, err := load(t, "memory_mib = 2048\nstate_dir = '/srv/b'\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Settings() {
		want := "default"
		if s.Key == "memory_mib" || s.Key == "state_dir" {
			want = c.Path()
		}
		if s.Source != want || s.Means == "" || s.Value == nil {
			t.Errorf("%+v: want source %s", s, want)
		}
	}
	if c.MemoryMiB != 2048 || socket != "/srv/b/bangerd.sock" {
		t.Errorf("memory %d, socket %s", c.MemoryMiB, socket)
	}
	if _, _, err := config.Load(func(string) string { return "" }); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("without a home: %v", err)
	}
}
