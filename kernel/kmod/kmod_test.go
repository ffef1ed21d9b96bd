package kmod_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"banger/kernel/kmod"

	"github.com/google/go-cmp/cmp"
)

// link makes a module as the kernel's build would: .modinfo, exports as
// __ksymtab_ symbols, needs as undefined ones.
func link(info string, exports, needs []string) []byte {
	strs, syms := []byte{0}, make([]byte, 24)
	add := func(name string, section uint16) {
		syms = binary.LittleEndian.AppendUint32(syms, uint32(len(strs)))
		syms = append(syms, 1<<4, 0) // STB_GLOBAL, STV_DEFAULT
		syms = binary.LittleEndian.AppendUint16(syms, section)
		syms = append(syms, make([]byte, 16)...)
		strs = append(append(strs, name...), 0)
	}
	for _, e := range exports {
		add("__ksymtab_"+e, 1)
	}
	for _, n := range needs {
		add(n, 0)
	}
	names := []byte("\x00.modinfo\x00.symtab\x00.strtab\x00.shstrtab\x00")
	type section struct {
		name, kind, link, entsize uint64
		data                      []byte
	}
	sections := []section{{}, {1, 1, 0, 0, []byte(info)}, {10, 2, 3, 24, syms}, {18, 3, 0, 0, strs}, {26, 3, 0, 0, names}}
	var body, headers []byte
	for _, s := range sections {
		off := uint64(64 + len(body))
		headers = binary.LittleEndian.AppendUint32(headers, uint32(s.name))
		headers = binary.LittleEndian.AppendUint32(headers, uint32(s.kind))
		for _, v := range []uint64{0, 0, off, uint64(len(s.data)), s.link, 1, s.entsize} {
			headers = binary.LittleEndian.AppendUint64(headers, v)
		}
		body = append(body, s.data...)
	}
	// sh_link and sh_info are 32-bit each; rewrite the 8-byte slots above.
	for i, s := range sections {
		at := i*64 + 40
		binary.LittleEndian.PutUint32(headers[at:], uint32(s.link))
		binary.LittleEndian.PutUint32(headers[at+4:], 1)
	}
	h := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	h = binary.LittleEndian.AppendUint16(h, 1)  // ET_REL
	h = binary.LittleEndian.AppendUint16(h, 62) // x86-64
	h = binary.LittleEndian.AppendUint32(h, 1)
	h = append(h, make([]byte, 16)...) // entry, program headers
	h = binary.LittleEndian.AppendUint64(h, uint64(64+len(body)))
	h = binary.LittleEndian.AppendUint32(h, 0)
	for _, v := range []uint16{64, 0, 0, 64, uint16(len(sections)), 4} {
		h = binary.LittleEndian.AppendUint16(h, v)
	}
	return append(append(h, body...), headers...)
}

func tree() fstest.MapFS {
	file := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o644} }
	return fstest.MapFS{
		"kernel/net/failover.ko":     file(link("license=GPL\x00", []string{"failover_register"}, nil)),
		"kernel/net/net-failover.ko": file(link("a=b\x00", []string{"net_failover_create"}, []string{"failover_register"})),
		"kernel/net/virtio_net.ko": file(link("alias=virtio:d00000001v*\x00softdep=pre: crc-x\x00", nil,
			[]string{"net_failover_create", "virtio_find", "printk"})),
		"kernel/virtio.ko":        file(link("alias=x-[a-z]-y\x00alias=char-major-10-200\x00alias=devname:net/tun\x00", []string{"virtio_find"}, nil)),
		"modules.order":           file([]byte("kernel/virtio.ko\nkernel/net/failover.ko\nkernel/net/net-failover.ko\nkernel/net/virtio_net.ko\n")),
		"modules.builtin":         file([]byte("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko\n")),
		"modules.builtin.modinfo": file([]byte("ext4.alias=fs-ext4\x00ext4.license=GPL\x00crc_t10dif.alias=crc-x\x00")),
	}
}

func TestTables(t *testing.T) {
	tr, err := kmod.Read(tree())
	if err != nil {
		t.Fatal(err)
	}
	tables, err := tr.Tables()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"modules.dep": `kernel/virtio.ko:
kernel/net/failover.ko:
kernel/net/net-failover.ko: kernel/net/failover.ko
kernel/net/virtio_net.ko: kernel/virtio.ko kernel/net/net-failover.ko kernel/net/failover.ko
`,
		"modules.alias": `# Aliases extracted from modules themselves.
alias x-[a-z]-y virtio
alias char-major-10-200 virtio
alias devname:net/tun virtio
alias virtio:d00000001v* virtio_net
`,
		"modules.softdep": "# Soft dependencies extracted from modules themselves.\nsoftdep virtio_net pre: crc-x\n",
		"modules.devname": "# Device nodes to trigger on-demand module loading.\nvirtio net/tun c10:200\n",
	}
	for name, text := range want {
		if diff := cmp.Diff(text, string(tables[name])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLoad(t *testing.T) {
	tr, err := kmod.Read(tree())
	if err != nil {
		t.Fatal(err)
	}
	list, err := tr.Load("virtio-net", "ext4", "virtio")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	if diff := cmp.Diff([]string{"failover", "net_failover", "virtio", "virtio_net"}, names); diff != "" {
		t.Errorf("load order (-want +got):\n%s", diff)
	}
	if _, err := tr.Load("nonesuch"); err == nil {
		t.Error("a module that isn't there was found")
	}
}

func TestRefused(t *testing.T) {
	module := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o644} }
	for name, fsys := range map[string]fstest.MapFS{
		"cycle":     {"a.ko": module(link("x=\x00", []string{"a"}, []string{"b"})), "b.ko": module(link("x=\x00", []string{"b"}, []string{"a"}))},
		"twin":      {"x/a-b.ko": module(link("x=\x00", nil, nil)), "y/a_b.ko": module(link("x=\x00", nil, nil))},
		"no module": {"a.ko": module([]byte("#!/bin/sh\n"))},
		"newline":   {"a.ko": module(link("alias=a\nalias b c\x00", nil, nil))},
		"8-bit":     {"a.ko": module(link("alias=\xff\x00", nil, nil))},
		"name":      {"a b.ko": module(link("x=\x00", nil, nil))},
		"long":      {"a.ko": module(link("alias="+strings.Repeat("a", 5000)+"\x00", nil, nil))},
	} {
		if _, err := kmod.Read(fsys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAgainstDepmod compares every table with the one depmod writes for the
// same tree: texts byte for byte, indexes by what they hold, as kmod 34 lays their
// nodes out another way than 30. The tree is that of a real kernel:
// BANGER_TEST_MODULES or the host's own.
func TestAgainstDepmod(t *testing.T) {
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		t.Skip("depmod is missing (package kmod)")
	}
	version, dir := realTree(t)
	tr, err := kmod.Read(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := tr.Tables()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	if err := os.CopyFS(filepath.Join(base, "lib/modules", version), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(context.Background(), depmod, "-b", base, version).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, out)
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		want, err := os.ReadFile(filepath.Join(base, "lib/modules", version, name))
		if os.IsNotExist(err) && name == "modules.weakdep" {
			continue // kmod before 33 doesn't write it
		}
		if err != nil {
			t.Fatal(err)
		}
		got := tables[name]
		if name == "modules.symbols" { // in the order of a hash table
			got, want = sortLines(got), sortLines(want)
		}
		if strings.HasSuffix(name, ".bin") && !bytes.Equal(got, want) {
			if diff := cmp.Diff(indexed(t, want), indexed(t, got)); diff != "" {
				t.Errorf("%s (-depmod's +ours):\n%.2000s", name, diff)
			}
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, not the %d that depmod wrote", name, len(got), len(want))
		}
	}
}

// indexed reads the values that an index has for each key, in order: a trie, whose
// nodes say by three bits of where they lie what is in them.
func indexed(t *testing.T, data []byte) map[string][]string {
	t.Helper()
	if len(data) < 12 || string(data[:8]) != "\xb0\x07\xf4\x57\x00\x02\x00\x01" {
		t.Fatalf("no index: % .20x", data)
	}
	u32 := func(at uint32) uint32 { return binary.BigEndian.Uint32(data[at:]) }
	text := func(at uint32) string { s, _, _ := bytes.Cut(data[at:], []byte{0}); return string(s) }
	all := map[string][]string{}
	var node func(key string, n uint32)
	node = func(key string, n uint32) {
		at := n & (1<<29 - 1)
		if n&(1<<31) != 0 {
			prefix := text(at)
			key, at = key+prefix, at+uint32(len(prefix))+1
		}
		if n&(1<<29) != 0 {
			first, last := data[at], data[at+1]
			at += 2
			for c := int(first); c <= int(last); c, at = c+1, at+4 {
				if child := u32(at); child != 0 {
					node(key+string([]byte{byte(c)}), child)
				}
			}
		}
		if n&(1<<30) != 0 {
			count := u32(at)
			at += 4
			for range count {
				value := text(at + 4)
				all[key] = append(all[key], fmt.Sprint(u32(at), " ", value))
				at += 4 + uint32(len(value)) + 1
			}
		}
	}
	node("", u32(8))
	return all
}

func sortLines(data []byte) []byte {
	lines := strings.SplitAfter(string(data), "\n")
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

func realTree(t *testing.T) (version, dir string) {
	t.Helper()
	dirs := []string{os.Getenv("BANGER_TEST_MODULES")}
	host, _ := filepath.Glob("/lib/modules/*")
	cached, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".cache/banger-test/modules/*"))
	for _, dir := range append(append(dirs, cached...), host...) {
		if _, err := os.Stat(filepath.Join(dir, "modules.order")); err == nil && dir != "" {
			if ko, _ := filepath.Glob(filepath.Join(dir, "kernel/*")); len(ko) > 0 {
				return filepath.Base(dir), dir
			}
		}
	}
	t.Skip("no tree of uncompressed modules: set BANGER_TEST_MODULES to one; package debian's tests make one too")
	return "", ""
}

func FuzzParse(f *testing.F) {
	f.Add(link("alias=a\x00softdep=pre: b\x00", []string{"x"}, []string{"y"}))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := kmod.Parse("kernel/a-b.ko", data)
		if err != nil {
			return
		}
		for _, a := range m.Aliases {
			if strings.ContainsAny(a, "\n\x00") {
				t.Errorf("alias %q would break a table", a)
			}
		}
	})
}

// What is left of a module is its beginning, and a signature's end is what was cut off.
func FuzzUnsigned(f *testing.F) {
	const mark = "~Module signature appended~\n"
	f.Add([]byte("module" + "signature" + strings.Repeat("\x00", 11) + "\x09" + mark))
	f.Add([]byte(strings.Repeat("\xff", 12) + mark))
	f.Fuzz(func(t *testing.T, data []byte) {
		left := kmod.Unsigned(data)
		if !bytes.HasPrefix(data, left) || len(left) != len(data) && !bytes.HasSuffix(data, []byte(mark)) {
			t.Errorf("%q without its signature is %q", data, left)
		}
	})
}

// A signature is cut off; what only looks as if there were one stays.
func TestUnsigned(t *testing.T) {
	const mark = "~Module signature appended~\n"
	signed := func(body, signature string, size byte) string {
		return body + signature + strings.Repeat("\x00", 11) + string([]byte{size}) + mark
	}
	for in, want := range map[string]string{
		signed("module", "signature", 9):  "module",
		signed("", "", 0):                 "",
		"module":                          "module",
		mark:                              mark,
		signed("module", "", 7):           signed("module", "", 7),
		strings.Repeat("\xff", 12) + mark: strings.Repeat("\xff", 12) + mark,
		"":                                "",
	} {
		if got := kmod.Unsigned([]byte(in)); string(got) != want {
			t.Errorf("%q without its signature is %q, want %q", in, got, want)
		}
	}
}
