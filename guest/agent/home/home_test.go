package home_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/guest"
	"banger/guest/agent/home"
)

var ada = guest.Home{
	Name: `Ada "the first" \ Lovelace`, Mail: "ada@example.org", Zone: "Europe/Berlin", ZoneFile: []byte("TZif2 rules"), Lang: "de_DE.UTF-8",
	Proxy: []string{"https_proxy=http://proxy:3128"}, Certificates: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func apply(t *testing.T, root string, h guest.Home) {
	t.Helper()
	put(t, root, "etc/hostname", "web\n")
	if err := home.Apply(root, h); err != nil {
		t.Error(err)
	}
}

// git itself reads what is written, whatever a name has in it; and it is made anew.
func TestGit(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("no git here")
	}
	root := t.TempDir()
	apply(t, root, guest.Home{Name: "somebody else"})
	apply(t, root, ada)
	for key, want := range map[string]string{"user.name": ada.Name, "user.email": ada.Mail} {
		out, err := exec.Command(git, "config", "--file", filepath.Join(root, "etc/gitconfig"), key).Output()
		if strings.TrimSuffix(string(out), "\n") != want || err != nil {
			t.Errorf("%s is %q: %v", key, out, err)
		}
	}
	put(t, root, "etc/gitconfig", "[user]\n\tname = Mine\n")
	apply(t, root, ada)
	if got := text(t, root, "etc/gitconfig"); got != "[user]\n\tname = Mine\n" {
		t.Errorf("what a user wrote became %q", got)
	}
}

func TestZone(t *testing.T) {
	for _, c := range []struct{ name, link, knows, want string }{
		{"none", "", "Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"},
		{"UTC", "/usr/share/zoneinfo/Etc/UTC", "Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"},
		{"chosen", "/usr/share/zoneinfo/Asia/Tokyo", "Europe/Berlin", "/usr/share/zoneinfo/Asia/Tokyo"},
		{"unknown", "", "", ""},
	} {
		root := t.TempDir()
		put(t, root, "etc/hostname", "")
		if c.knows != "" {
			put(t, root, "usr/share/zoneinfo/"+c.knows, "rules")
		}
		local := filepath.Join(root, "etc/localtime")
		if c.link != "" {
			if err := os.Symlink(c.link, local); err != nil {
				t.Fatal(err)
			}
		}
		apply(t, root, ada)
		apply(t, root, ada)
		if got, _ := os.Readlink(local); got != c.want {
			t.Errorf("%s: it is %q", c.name, got)
		}
		if c.knows == "" && text(t, root, "etc/localtime") != string(ada.ZoneFile) {
			t.Errorf("%s: the rules aren't there", c.name)
		}
	}
	root := t.TempDir()
	apply(t, root, guest.Home{Zone: "../../etc/passwd", ZoneFile: []byte("x")})
	if _, err := os.Lstat(filepath.Join(root, "etc/localtime")); err == nil {
		t.Error("a zone that leads elsewhere is taken")
	}
}

func TestEnvironment(t *testing.T) {
	root := t.TempDir()
	if got := home.Environment(root, ada); !slices.Equal(got, ada.Proxy) {
		t.Errorf("without the language: %q", got)
	}
	put(t, root, "usr/lib/locale/locale-archive", "x\x00de_DE.utf8\x00y")
	if got := home.Environment(root, ada); !slices.Contains(got, "LANG=de_DE.UTF-8") || len(got) != 2 {
		t.Errorf("with it: %q", got)
	}
	if got := home.Environment(root, guest.Home{Lang: "../x"}); len(got) != 0 {
		t.Errorf("%q", got)
	}
	put(t, root, "usr/lib/locale/en_US.utf8/LC_TIME", "")
	if got := home.Environment(root, guest.Home{Lang: "en_US.UTF-8"}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// Certificates are added once to what is there, at every start.
func TestCertificates(t *testing.T) {
	root := t.TempDir()
	put(t, root, "etc/ssl/certs/ca-certificates.crt", "others")
	for range 3 {
		apply(t, root, ada)
	}
	if got := text(t, root, "etc/ssl/certs/ca-certificates.crt"); strings.Count(got, ada.Certificates) != 1 || !strings.HasPrefix(got, "others\n") {
		t.Errorf("it is %q", got)
	}
	if text(t, root, "usr/local/share/ca-certificates/banger-host.crt") != ada.Certificates {
		t.Error("update-ca-certificates doesn't find them")
	}
	root = t.TempDir()
	apply(t, root, ada)
	if !strings.Contains(text(t, root, "etc/ssl/certs/ca-certificates.crt"), ada.Certificates) {
		t.Error("a guest without a list has none")
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := home.Apply(filepath.Join(root, "file"), ada); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("what can't be written: %v", err)
	}
}
