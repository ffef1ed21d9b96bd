package cli

import (
	"slices"
	"strings"
	"testing"

	"banger"
)

// What runs in a VM of an OCI image is what docker would run.
func TestEntrypoint(t *testing.T) {
	nginx := &banger.ImageConfig{Entrypoint: []string{"/entry.sh"}, Cmd: []string{"nginx", "-g", "daemon off;"}}
	shell := &banger.ImageConfig{Cmd: []string{"bash"}}
	for _, c := range []struct {
		config *banger.ImageConfig
		flag   *string
		argv   string
		want   string
	}{
		{nginx, nil, "", "/entry.sh|nginx|-g|daemon off;"},
		{nginx, nil, "nginx -t", "/entry.sh|nginx|-t"},
		{nginx, new("cat"), "", "cat"},
		{nginx, new("cat"), "/etc/passwd", "cat|/etc/passwd"},
		{nginx, new(""), "id", "id"},
		{nginx, new(""), "", ""},
		{shell, nil, "", "bash"},
		{shell, nil, "id -u", "id|-u"},
		{nil, nil, "id", "id"},
		{nil, nil, "", ""},
	} {
		var e entrypoint
		if c.flag != nil {
			_ = e.Set(*c.flag)
		}
		if got := strings.Join(e.command(c.config, strings.Fields(c.argv)), "|"); got != c.want {
			t.Errorf("%+v with %v: %q, want %q", c.argv, c.flag, got, c.want)
		}
	}
}

// A command has the image's environment, user and directory beneath those of its flags
// and of the repository.
func TestConfigOfCommand(t *testing.T) {
	vm := banger.VM{Config: &banger.ImageConfig{Env: []string{"A=image", "B=image"}, User: "web", WorkDir: "/srv"}}
	s := (&commandFlags{env: []string{"A=flag"}}).spec(vm, nil)
	if !slices.Equal(s.Env, []string{"A=image", "B=image", "A=flag"}) || s.User != "web" || s.Dir != "/srv" {
		t.Errorf("%+v", s)
	}
	vm.Spec.Workspace = "/root/repo"
	if s = (&commandFlags{user: "root"}).spec(vm, nil); s.User != "root" || s.Dir != "/root/repo" {
		t.Errorf("%+v", s)
	}
	if s = (&commandFlags{dir: "/"}).spec(vm, nil); s.Dir != "/" {
		t.Errorf("%+v", s)
	}
}
