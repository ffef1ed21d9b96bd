package session

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// In the package itself: accounts are read from fixed places of the guest's root.

func TestLookup(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, content string) {
		if err := os.WriteFile(root+"/etc/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("passwd", "root:x:0:0:root:/root:/bin/bash\nbroken\n+nis\nbad:x:minus:1::/:\n"+
		"dev:x:1000:1000:Dev,,,:/home/dev:/bin/zsh\n77:x:5:5::/seven:\nrel:x:6:6::home:/bin/sh")
	put("group", "root:x:0:\nwheel:x:10:root,dev\ndev:x:1000:\nhuge:x:99999999999:dev\ndocker:x:50:dev\nshort:x\n")
	for who, want := range map[string]account{
		"root":     {name: "root", home: "/root", shell: "/bin/bash", groups: []uint32{10, 0}},
		"dev":      {name: "dev", home: "/home/dev", shell: "/bin/zsh", uid: 1000, gid: 1000, groups: []uint32{10, 50, 1000}},
		"1000":     {name: "dev", home: "/home/dev", shell: "/bin/zsh", uid: 1000, gid: 1000, groups: []uint32{10, 50, 1000}},
		"dev:50":   {name: "dev", home: "/home/dev", shell: "/bin/zsh", uid: 1000, gid: 50, groups: []uint32{10, 50, 50}},
		"0:wheel":  {name: "root", home: "/root", shell: "/bin/bash", gid: 10, groups: []uint32{10, 10}},
		"4242":     {name: "4242", home: "/", shell: "/bin/sh", uid: 4242, gid: 4242, groups: []uint32{4242}},
		"4242:123": {name: "4242", home: "/", shell: "/bin/sh", uid: 4242, gid: 123, groups: []uint32{123}},
		"77":       {name: "77", home: "/seven", shell: "/bin/sh", uid: 5, gid: 5, groups: []uint32{5}},
		"rel":      {name: "rel", home: "/", shell: "/bin/sh", uid: 6, gid: 6, groups: []uint32{6}},
	} {
		got, err := lookup(root, who)
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(account{})); diff != "" {
			t.Errorf("%s: %s", who, diff)
		}
	}
	for _, who := range []string{"nobody", "dev:nogroup", "bad", "-1", "99999999999", "broken"} {
		if a, err := lookup(root, who); err == nil {
			t.Errorf("%s is %+v", who, a)
		}
	}
	if a, err := lookup(t.TempDir(), "root"); err != nil || a.home != "/root" || a.shell != "/bin/sh" {
		t.Errorf("root of an empty image: %+v, %v", a, err)
	}
}

func TestEnviron(t *testing.T) {
	a := account{name: "dev", home: "/home/dev", shell: "/bin/zsh", uid: 1}
	got := a.environ("xterm", []string{"HOME=/x", "A=1", "A=2"})
	want := []string{"HOME=/x", "USER=dev", "LOGNAME=dev", "SHELL=/bin/zsh", "LANG=C.UTF-8", "TERM=xterm", "A=2"}
	got = slices.DeleteFunc(got, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
