package bootstrap

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/test/archivetest"
)

// entries is a tar's content: names with what they lead to or hold.
func entries(t *testing.T, data []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h.Linkname + string(content)
	}
}

// plant makes a tree of packages that lie in an archive.
func plant(t *testing.T, list ...archivetest.Deb) ([]byte, error) {
	t.Helper()
	a := archivetest.New(t, list...)
	lock := banger.Lock{Suite: "bookworm", Date: a.Date}
	var files []string
	for _, d := range list {
		file := filepath.Join(t.TempDir(), "deb")
		if err := os.WriteFile(file, a.File(archivetest.Pool(d)), 0o600); err != nil {
			t.Fatal(err)
		}
		lock.Packages, files = append(lock.Packages, banger.Package{Name: d.Name, Version: d.Version, Arch: "amd64"}), append(files, file)
	}
	var out bytes.Buffer
	err := newTree(&out).fill(context.Background(), lock, files, func(string, string, int64, int64) {})
	return out.Bytes(), err
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

// What dpkg would have made of these packages, up to its database.
func TestTree(t *testing.T) {
	data, err := plant(t,
		archivetest.Deb{Name: "base-files", Version: "1", Fields: "Essential: yes\n", Files: []tar.Header{
			{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755}, link("./bin", "usr/bin"), file("./etc/issue")},
			Control: map[string]string{"conffiles": "/etc/issue\n", "triggers": "interest-noawait /usr/share/x\ninterest ldconfig\n# a comment\nactivate other\n"},
			Content: map[string]string{"./etc/issue": "Debian\n"}},
		archivetest.Deb{Name: "old", Version: "1", Files: []tar.Header{file("./bin/tool"), file("./bin/only-old"), file("./usr/share/man/man1/tool.1"),
			file("./usr/share/doc/old/README"), file("./usr/share/doc/old/copyright")}, Content: map[string]string{"./bin/tool": "old"}},
		archivetest.Deb{Name: "new", Version: "1", Fields: "Replaces: old (<< 2)\nMulti-Arch: same\n", Files: []tar.Header{file("./usr/bin/tool"),
			{Name: "./bin/again", Typeflag: tar.TypeLink, Linkname: "./bin/tool"}}, Content: map[string]string{"./usr/bin/tool": "new"},
			Control: map[string]string{"postinst": "#!/bin/sh\n"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	got := entries(t, data)
	for name, want := range map[string]string{
		"usr/bin/tool":                         "new",
		"usr/bin/again":                        "usr/bin/tool",
		"usr/bin/only-old":                     "",
		"usr/share/doc/old/copyright":          "",
		"bin":                                  "usr/bin",
		"usr/bin/sh":                           "dash",
		"etc/issue":                            "Debian\n",
		"var/lib/dpkg/info/new:amd64.postinst": "#!/bin/sh\n",
		"var/lib/dpkg/info/old.list":           "/bin/only-old\n/bin/tool\n/usr/share/doc/old/README\n/usr/share/doc/old/copyright\n/usr/share/man/man1/tool.1\n",
		"var/lib/dpkg/triggers/File":           "/usr/share/x base-files/noawait\n",
		"var/lib/dpkg/triggers/ldconfig":       "base-files\n",
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s: %q (%v), want %q", name, have, ok, want)
		}
	}
	for _, name := range []string{"usr/share/man/man1/tool.1", "usr/share/doc/old/README", "var/lib/dpkg/info/new:amd64.control"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is there", name)
		}
	}
	checkDpkg(t, got)
}

// checkDpkg asks the real dpkg what it reads in a database of ours.
func checkDpkg(t *testing.T, files map[string]string) {
	t.Helper()
	query, err := exec.LookPath("dpkg-query")
	if err != nil {
		t.Skip("dpkg-query is missing (package dpkg)")
	}
	dir := t.TempDir()
	for name, data := range files {
		if rest, ok := strings.CutPrefix(name, "var/lib/dpkg/"); ok && !strings.HasSuffix(name, "/") {
			path := filepath.Join(dir, rest)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(args ...string) string {
		out, err := exec.Command(query, append([]string{"--admindir=" + dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("dpkg-query %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	if got := ask("--show", "--showformat=${binary:Package} ${db:Status-Status} ${Conffiles}\n"); got !=
		"base-files unpacked  /etc/issue 32865e97b5342e762ab140e00f3da23b\nnew:amd64 unpacked \nold unpacked \n" {
		t.Errorf("dpkg reads:\n%s", got)
	}
	if got := ask("--search", "/bin/tool"); !strings.HasPrefix(got, "old: ") {
		t.Errorf("whose is /bin/tool: %s", got)
	}
}

// Packages that claim each other's files, lie about themselves or leave the root.
func TestBadPackages(t *testing.T) {
	ok := archivetest.Deb{Name: "one", Version: "1", Files: []tar.Header{file("./usr/bin/x")}}
	for name, c := range map[string]struct {
		list []archivetest.Deb
		want string
	}{
		"two with one file":   {[]archivetest.Deb{ok, {Name: "two", Version: "1", Files: ok.Files}}, "one has this file, too, and neither package replaces the other"},
		"through merged /usr": {[]archivetest.Deb{ok, {Name: "two", Version: "1", Files: []tar.Header{file("./bin/x")}}}, "one has this file, too"},
		"above the root":      {[]archivetest.Deb{{Name: "up", Version: "1", Files: []tar.Header{file("../../etc/passwd")}}}, "no name of a file in a package"},
		"a link above it":     {[]archivetest.Deb{{Name: "up", Version: "1", Files: []tar.Header{{Name: "./x", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}}}}, "no name of a file in a package"},
		"a line in a name":    {[]archivetest.Deb{{Name: "nl", Version: "1", Files: []tar.Header{file("./a\nb")}}}, "no name of a file in a package"},
		"control in folders":  {[]archivetest.Deb{{Name: "dirs", Version: "1", Control: map[string]string{"a/b": "x"}}}, "control archive: member"},
		"two stanzas":         {[]archivetest.Deb{{Name: "twice", Version: "1", Fields: "\nPackage: dpkg\nStatus: install ok installed\n"}}, `it is "`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := plant(t, c.list...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
