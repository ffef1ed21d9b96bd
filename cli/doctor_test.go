package cli

import (
	"testing"

	"banger"
)

func TestKernelAndImage(t *testing.T) {
	kernels := []banger.Kernel{{Name: "k", ID: "1", Version: "6.1"}}
	images := []banger.Image{{Name: "i", ID: "2"}}
	for name, c := range map[string]struct {
		check banger.Check
		level banger.Level
	}{
		"kernel": {kernelCheck("k", kernels), banger.LevelOK}, "kernel by id": {kernelCheck("1", kernels), banger.LevelOK}, "no kernel": {kernelCheck("x", kernels), banger.LevelNote},
		"image": {imageCheck("i", images), banger.LevelOK}, "image by id": {imageCheck("2", images), banger.LevelOK}, "no image": {imageCheck("x", images), banger.LevelWarn},
	} {
		if c.check.Level != c.level || c.level != banger.LevelOK && c.check.Mend == "" {
			t.Errorf("%s: %+v", name, c.check)
		}
	}
}

func TestBrowsers(t *testing.T) {
	for level, at := range map[banger.Level]banger.Proxy{
		banger.LevelOK: {Port: 8788, Serving: true}, banger.LevelNote: {Port: 8788}, banger.LevelWarn: {Port: 8788, Problem: "taken", Hint: "another"},
	} {
		if c := browserCheck(at); c.Level != level || level == banger.LevelWarn && (c.Found != "taken" || c.Mend != "another") {
			t.Errorf("%+v: %+v", at, c)
		}
	}
	if c := browserCheck(banger.Proxy{}); c.Level != banger.LevelOK {
		t.Errorf("turned off: %+v", c)
	}
}

// A report tells nobody's name, and keeps what a developer needs.
func TestRedact(t *testing.T) {
	got := redact(`open /home/ann/.local/state/banger/x: vm web-shop of ann on thinkpad
mirror https://ann:geheim@mirror.corp/debian, 10.1.2.3 and 127.0.0.1; token=abc123 "password": "x y"; ann.b@corp.example
roots and annotations stay, thinkpads too`, []string{"thinkpad", "ann", "/home/ann", "root", "web-shop", "", "ab"})
	want := `open ~/.local/state/banger/x: vm NAME of NAME on NAME
mirror https://REDACTED@mirror.corp/debian, ADDRESS and 127.0.0.1; token=REDACTED "password": REDACTED; MAIL
roots and annotations stay, thinkpads too`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
