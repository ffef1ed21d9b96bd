package modprobe_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"banger/guest/agent/modprobe"
)

func tree() fstest.MapFS {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		"modules.dep":             text("kernel/a.ko:\nkernel/net/b-c.ko: kernel/d.ko kernel/a.ko\nkernel/d.ko: kernel/a.ko\nkernel/crc.ko.xz:\nkernel/later.ko:\n"),
		"modules.alias":           text("# comment\nalias net-pf-10 b_c\nalias pci:v0*sv*[13]* d\nalias char-major-10-200 a\nalias crypto-x crc\nalias crypto-x d\n"),
		"modules.softdep":         text("softdep b_c pre: crypto-x nonesuch post: later\n"),
		"modules.builtin":         text("kernel/ext4.ko\n"),
		"modules.builtin.modinfo": text("ext4.alias=fs-ext4\x00ext4.license=GPL\x00"),
		"modules.devname":         text("# nodes\ntun net/tun c10:200\nloop loop-control c10:237\nx ../../etc/x c1:1\nbtrfs btrfs-control c10:234\n"),
	}
}

func TestLoad(t *testing.T) {
	tables, err := modprobe.Read(tree())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a": "kernel/a.ko", "b-c": "kernel/crc.ko.xz kernel/a.ko kernel/d.ko kernel/net/b-c.ko kernel/later.ko", "net-pf-10": "kernel/crc.ko.xz kernel/a.ko kernel/d.ko kernel/net/b-c.ko kernel/later.ko",
		"pci:v01sv02x3": "kernel/a.ko kernel/d.ko", "char-major-10-200": "kernel/a.ko", "ext4": "", "fs-ext4": "", "crypto_x": "kernel/crc.ko.xz kernel/a.ko kernel/d.ko",
	} {
		got, err := tables.Load(name)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if got, err := tables.Load("pci:v01sv02x4"); err == nil {
		t.Errorf("a module that isn't there: %q", got)
	}
	if _, err := modprobe.Read(fstest.MapFS{}); err == nil {
		t.Error("a directory without tables was read")
	}
	want := []modprobe.Node{{Path: "net/tun", Major: 10, Minor: 200}, {Path: "loop-control", Major: 10, Minor: 237}, {Path: "btrfs-control", Major: 10, Minor: 234}}
	if diff := cmp.Diff(want, modprobe.Nodes(tree())); diff != "" {
		t.Error(diff)
	}
}

func TestAsked(t *testing.T) {
	for args, want := range map[string]string{
		"-q -- net-pf-10": "net-pf-10", "ip_tables": "ip_tables", "ip_tables -q": "ip_tables", "-va bridge br_netfilter": "bridge br_netfilter",
		"loop max_loop=8": "loop", "--all a b": "a b", "-r a": "-", "": "-",
	} {
		got, ok := modprobe.Asked(strings.Fields(args))
		if !ok {
			got = []string{"-"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

// For each module and many aliases of a real kernel, the real modprobe would load the same
// files in an order that is as good.
func TestAgainstModprobe(t *testing.T) {
	home, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dirs, err := filepath.Glob(filepath.Join(home, "banger-test/modules/*"))
	if _, missing := exec.LookPath("modprobe"); err != nil || len(dirs) == 0 || missing != nil {
		t.Skip("not run: it needs modprobe and a kernel's modules, which make test fetches")
	}
	dir := dirs[0]
	base := t.TempDir()
	version := filepath.Base(dir)
	if err := os.MkdirAll(filepath.Join(base, "lib/modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(base, "lib/modules", version)); err != nil {
		t.Fatal(err)
	}
	tables, err := modprobe.Read(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"overlay", "bridge", "br_netfilter", "veth", "nf_tables", "nft_compat", "xt_MASQUERADE", "xt_conntrack", "xt_addrtype", "ip_tables", "tun", "fuse", "vxlan", "wireguard", "btrfs", "xfs",
		"rtnl-link-veth", "rtnl-link-bridge", "net-pf-38", "nft-expr-masq", "nft-chain-2-nat", "nfnetlink-subsys-10", "ipt_MASQUERADE", "char-major-10-200", "char-major-10-229", "fs-fuse", "fs-overlay", "devname:net/tun",
	} {
		out, err := exec.Command("modprobe", "-d", base, "-S", version, "--show-depends", "--ignore-install", "-C", "/dev/null", name).Output()
		if err != nil {
			t.Logf("%s: the real one doesn't know it", name)
			continue
		}
		var want []string
		for line := range strings.Lines(string(out)) {
			if file, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod "); ok {
				rest := strings.Fields(file)[0]
				if _, below, ok := strings.Cut(rest, version+"/"); ok && !slices.Contains(want, below) {
					want = append(want, below)
				}
			}
		}
		got, err := tables.Load(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sorted := func(list []string) []string { list = slices.Clone(list); slices.Sort(list); return list }
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s (modprobe -, ours +):\n%s", name, diff)
		}
	}
}
