package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger"
)

// The login for a registry is docker's own, and the daemon never learns of another one's.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("HOME", dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	config := `{"auths":{"ghcr.io":{"auth":"bWU6c2VjcmV0"},"https://index.docker.io/v1/":{"auth":"aHViOmh1Yg=="}},"credHelpers":{"helped.example":"banger-test","broken.example":"no-such-helper"}}`
	helper := "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"<token>\",\"Secret\":\"a token\"}'\n"
	for name, text := range map[string]string{"config.json": config, "docker-credential-banger-test": helper} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for ref, want := range map[string]banger.Credentials{
		"ghcr.io/org/image":       {User: "me", Password: "secret"},
		"alpine":                  {User: "hub", Password: "hub"},
		"other.example/x":         {},
		"helped.example/x":        {Token: "a token"},
		"ghcr.io.other.example/x": {},
		"Bad::ref":                {},
	} {
		got, err := login(t.Context(), ref)
		got.User = strings.TrimPrefix(got.User, "<token>")
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := login(t.Context(), "ghcr.io/x"); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("a damaged config: %v", err)
	}
}

// When to pull is one of three words.
func TestPullFlag(t *testing.T) {
	var f pullFlag
	if err := f.Set("sometimes"); err == nil || !strings.Contains(err.Error(), "always, missing, never") {
		t.Error(err)
	}
	if err := f.Set("always"); err != nil || f != "always" {
		t.Errorf("%s, %v", f, err)
	}
}

// The first process is one of three, and the daemon is told which.
func TestInitFlag(t *testing.T) {
	var f initFlag
	if err := f.Set("systemd"); err == nil || !strings.Contains(err.Error(), "auto, image, agent") {
		t.Error(err)
	}
	for who, want := range map[string][2]bool{"auto": {false, false}, "image": {false, true}, "agent": {true, false}} {
		flags := specFlags{}
		cmd := &cobra.Command{}
		flags.addFlags(&App{}, cmd)
		if err := cmd.ParseFlags([]string{"--init", who}); err != nil {
			t.Fatal(err)
		}
		s, err := flags.spec(&App{})
		if err != nil || s.NoInit != want[0] || s.NeedInit != want[1] {
			t.Errorf("%s: %+v, %v", who, s, err)
		}
	}
}
