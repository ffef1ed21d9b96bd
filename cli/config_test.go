package cli

import (
	"bytes"
	"strings"
	"testing"

	"banger/config"
	"banger/host/xdg"
)

// The settings of a usual home fit into a terminal.
func TestSettingsFit(t *testing.T) {
	home := "/home/somebody"
	c := config.Default(xdg.Dirs{State: home + "/.local/state/banger", Data: home + "/.local/share/banger", Cache: home + "/.cache/banger", Config: home + "/.config/banger"})
	list := c.Settings()
	list[1].Source = home + "/.config/banger/config.toml"
	var out bytes.Buffer
	listSettings(&page{w: &out}, list)
	for line := range strings.Lines(out.String()) {
		if len(line) > 101 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	if !strings.Contains(out.String(), "   *\n") || !strings.Contains(out.String(), "* set in /home/somebody/.config/banger/config.toml") {
		t.Errorf("it doesn't say what the file sets: %s", out.String())
	}
}
