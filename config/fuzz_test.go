package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/config"
	"banger/host/xdg"
)

// Whatever config.toml says, it is used or refused as invalid by its name; and a
// refused one changes no default.
func FuzzConfig(f *testing.F) {
	f.Add("vcpu = 2\nmemory_mib = 512\nnet = \"user\"\nbridge_ports = [53]\n")
	f.Add("boot_deadline = \"1m\"\nauto_stop_stale_after = '-1s'\nmirror = \"ftp://x\"")
	f.Add("vcpu = 99999999999999999999\n[table]\nx = 1")
	dir := f.TempDir()
	dirs := xdg.Dirs{Config: dir, State: dir, Data: dir, Cache: dir}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Read(dirs)
		if err == nil {
			return
		}
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "config.toml") {
			t.Errorf("%q: %v", text, err)
		}
		if d := config.Default(dirs); c.VCPU != d.VCPU || c.Net != d.Net || c.Mirror != d.Mirror {
			t.Errorf("%q is refused, and yet %+v", text, c)
		}
	})
}
