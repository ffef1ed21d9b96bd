package account

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
		"dev:x:1000:1000:Dev,,,:/home/dev:/bin/zsh\n77:x:5:5::/seven:\nrel:x:6:6::home:/bin/sh\nmax:x:4294967295:7::/:/bin/sh\nall:x:9:9::/:/bin/sh")
	put("group", "root:x:0:\nwheel:x:10:root,dev\ndev:x:1000:\nhuge:x:99999999999:dev\nall:x:4294967295:all\ndocker:x:50:dev\nshort:x\n")
	for who, want := range map[string]Account{
		"root":     {Name: "root", Home: "/root", Shell: "/bin/bash", Groups: []uint32{10, 0}},
		"dev":      {Name: "dev", Home: "/home/dev", Shell: "/bin/zsh", UID: 1000, GID: 1000, Groups: []uint32{10, 50, 1000}},
		"1000":     {Name: "dev", Home: "/home/dev", Shell: "/bin/zsh", UID: 1000, GID: 1000, Groups: []uint32{10, 50, 1000}},
		"dev:50":   {Name: "dev", Home: "/home/dev", Shell: "/bin/zsh", UID: 1000, GID: 50, Groups: []uint32{10, 50, 50}},
		"0:wheel":  {Name: "root", Home: "/root", Shell: "/bin/bash", GID: 10, Groups: []uint32{10, 10}},
		"4242":     {Name: "4242", Home: "/", Shell: "/bin/sh", UID: 4242, GID: 4242, Groups: []uint32{4242}},
		"4242:123": {Name: "4242", Home: "/", Shell: "/bin/sh", UID: 4242, GID: 123, Groups: []uint32{123}},
		"77":       {Name: "77", Home: "/seven", Shell: "/bin/sh", UID: 5, GID: 5, Groups: []uint32{5}},
		"rel":      {Name: "rel", Home: "/", Shell: "/bin/sh", UID: 6, GID: 6, Groups: []uint32{6}},
	} {
		got, err := Lookup(root, who)
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		if diff := cmp.Diff(want, got, nil); diff != "" {
			t.Errorf("%s: %s", who, diff)
		}
	}
	for _, who := range []string{"nobody", "dev:nogroup", "bad", "-1", "99999999999", "broken", "4294967295", "max", "dev:4294967295", "dev:all", "all"} {
		if a, err := Lookup(root, who); err == nil {
			t.Errorf("%s is %+v", who, a)
		}
	}
	if a, err := Lookup(t.TempDir(), "root"); err != nil || a.Home != "/root" || a.Shell != "/bin/sh" {
		t.Errorf("root of an empty image: %+v, %v", a, err)
	}
}

func TestEnviron(t *testing.T) {
	a := Account{Name: "dev", Home: "/home/dev", Shell: "/bin/zsh", UID: 1}
	got := a.Environ("xterm", []string{"HOME=/x", "A=1", "A=2"})
	want := []string{"HOME=/x", "USER=dev", "LOGNAME=dev", "SHELL=/bin/zsh", "LANG=C.UTF-8", "TERM=xterm", "A=2"}
	got = slices.DeleteFunc(got, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
