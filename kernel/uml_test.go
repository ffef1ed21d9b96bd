package kernel_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A kernel that is a program comes with the library that it runs by, each at its newest.
func TestProgram(t *testing.T) {
	m := newMirror(t, goodDeb())
	uml := deb(
		[2]string{"./usr/bin/linux.uml", string(elfKernel())},
		[2]string{"./usr/lib/uml/modules/6.12.113/modules.builtin", builtin},
		[2]string{"./usr/share/doc/user-mode-linux/config.gz", string(gzipped([]byte("CONFIG_UML=y\n")))},
	)
	libc := func(text string) []byte {
		return deb(
			[2]string{"./usr/lib/x86_64-linux-gnu/libc.so.6", text}, [2]string{"./usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "loader"},
			[2]string{"./usr/lib/x86_64-linux-gnu/libm.so.6", "not needed"},
		)
	}
	stanza := func(name, version, file string, pack []byte) string {
		m.files["/debian/pool/"+file], m.files["/debian-security/pool/"+file] = pack, pack
		return fmt.Sprintf("Package: %s\nVersion: %s\nFilename: pool/%s\nSize: %d\nSHA256: %x\n\n", name, version, file, len(pack), sha256.Sum256(pack))
	}
	m.suite("/debian/dists/trixie", stanza("user-mode-linux", "6.12um1+b22", "uml.deb", uml)+stanza("libc6", "2.41-1", "old.deb", libc("old")))
	m.suite("/debian/dists/trixie-updates", "")
	m.suite("/debian-security/dists/trixie-security", stanza("libc6", "2.41-2", "new.deb", libc("new")))
	k := m.kernels(t)
	got, err := k.Pull(t.Context(), "debian-13-uml", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hypervisor != "uml" || got.Version != "6.12.113" || !strings.Contains(got.Source, "user-mode-linux 6.12um1+b22 ") || !strings.Contains(got.Source, "libc6 2.41-2 ") {
		t.Errorf("pulled %+v", got)
	}
	look := func(current string, older bool) {
		t.Helper()
		if l, err := k.Last("debian-13-uml"); err != nil || l.Current != current || l.Older != older {
			t.Errorf("the last look: %+v, %v; want %q, %v", l, err, current, older)
		}
	}
	look("", false)
	boot, err := k.Boot(t.Context(), got.ID)
	if err != nil || boot.Hypervisor != "uml" {
		t.Fatalf("%+v, %v", boot, err)
	}
	dir := filepath.Dir(boot.Vmlinux)
	for name, want := range map[string][]byte{
		"vmlinux": elfKernel(), "config": []byte("CONFIG_UML=y\n"), "lib/libc.so.6": []byte("new"), "lib/ld-linux-x86-64.so.2": []byte("loader"),
	} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s has %d bytes, %v", name, len(data), err)
		}
	}
	if files, err := os.ReadDir(filepath.Join(dir, "lib")); err != nil || len(files) != 2 {
		t.Errorf("lib has %v, %v", files, err)
	}

	// A newer library makes another kernel. The release's own kernel is as old, and then newer.
	release := func(version string) string { return stanza("linux-image-cloud-amd64", version, "meta.deb", nil) }
	m.suite("/debian-security/dists/trixie-security", stanza("libc6", "2.41-3", "newer.deb", libc("newer"))+release("6.12.113-1"))
	newer, err := k.Pull(t.Context(), "debian-13-uml", true, nil)
	if err != nil || newer.ID == got.ID || !strings.Contains(newer.Source, "libc6 2.41-3 ") {
		t.Errorf("updated to %+v, %v", newer, err)
	}
	look("6.12.113", false)
	m.suite("/debian-security/dists/trixie-security", stanza("libc6", "2.41-3", "newer.deb", libc("newer"))+release("6.12.113-1")+release("6.12.114-1"))
	if same, err := k.Pull(t.Context(), "debian-13-uml", true, nil); err != nil || same.ID != newer.ID {
		t.Errorf("updated to %+v, %v", same, err)
	}
	look("6.12.114", true)

	m.suite("/debian/dists/trixie", stanza("user-mode-linux", "6.12um1+b23", "uml.deb", uml))
	m.suite("/debian-security/dists/trixie-security", "")
	if _, err := k.Pull(t.Context(), "debian-13-uml", true, nil); err == nil || !strings.Contains(err.Error(), "no package libc6") {
		t.Errorf("without the library: %v", err)
	}
}
