package account

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever an image has for passwd(5) and group(5), an account that is found is one of
// their lines or a number, and begins in an absolute home with a shell.
func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:\n", "root:x:0:\nsudo:x:27:user,other\n", "user:sudo")
	f.Add("1000:x:5:5::relative:/bin/sh\n\nno:colons\n", "g:x:-1:\ng:x:4294967296:a\n", "1000:7")
	f.Add("", "", "")
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, passwd, group, who string) {
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		a, err := Lookup(root, who)
		if err != nil {
			return
		}
		if !strings.HasPrefix(a.Home, "/") || a.Shell == "" {
			t.Errorf("home %q, shell %q", a.Home, a.Shell)
		}
		asked, _, _ := strings.Cut(who, ":")
		listed := strings.Contains("\n"+passwd, "\n"+asked+":")
		if number := strings.Trim(asked, "0123456789") == ""; !listed && !number && asked != "root" {
			t.Errorf("%q was found in %q: %+v", asked, passwd, a)
		}
		if len(a.Groups) > strings.Count(group, "\n")+2 {
			t.Errorf("%d groups in %q", len(a.Groups), group)
		}
	})
}
