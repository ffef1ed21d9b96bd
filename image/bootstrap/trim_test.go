package bootstrap

import "testing"

func TestDrops(t *testing.T) {
	tr := trimmer{
		mounts: []string{"proc", "var/lib/docker", "lib/modules/6.1"},
		dirs:   map[string]bool{"var/cache/apt": true, "var/cache/apt/archives": true, "var/lib": true, "usr/lib": true, "proc": true},
	}
	for name, want := range map[string]bool{
		"etc/hostname":                 true,
		"etc/hostname.d":               false,
		"var/cache/apt/archives/a.deb": true,
		"var/lib/docker/x":             true,
		"etc/ssh/ssh_host_rsa_key":     true,
		"etc/ssh/ssh_config":           false,
		"usr/lib/modules/6.1/kernel":   true,
		"usr/bin/git":                  false,
		"proc/1":                       true,
	} {
		if got := tr.drops(name, false); got != want {
			t.Errorf("file %s: dropped %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]bool{
		"var/cache/apt/archives": false, // dpkg --verify would miss it
		"var/cache/apt/other":    true,
		"var/lib":                false,
		"var/lib/docker":         true,
		"usr/lib/modules":        true, // made to mount something below
		"usr/lib":                false,
	} {
		if got := tr.drops(name, true); got != want {
			t.Errorf("directory %s: dropped %v, want %v", name, got, want)
		}
	}
}
