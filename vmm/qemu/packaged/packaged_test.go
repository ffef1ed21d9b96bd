package packaged_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/fetch/debian"
	"banger/test/archivetest"
	"banger/vmm/qemu/packaged"
)

const libs = "./usr/lib/x86_64-linux-gnu/"

// object is a program or library that asks for libraries: as much of one as a reader wants.
func object(needs ...string) string {
	var names bytes.Buffer
	names.WriteByte(0)
	var dynamic []elf.Dyn64
	for _, n := range needs {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: uint64(names.Len())})
		names.WriteString(n + "\x00")
	}
	dynamic = append(dynamic, elf.Dyn64{})
	head := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64, Shnum: 3, Shstrndx: 1,
		Shoff: uint64(64 + names.Len() + 16*len(dynamic)),
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	sections := []elf.Section64{
		{},
		{Type: uint32(elf.SHT_STRTAB), Off: 64, Size: uint64(names.Len())},
		{Type: uint32(elf.SHT_DYNAMIC), Off: uint64(64 + names.Len()), Size: uint64(16 * len(dynamic)), Link: 1, Entsize: 16},
	}
	var b bytes.Buffer
	for _, part := range []any{head, names.Bytes(), dynamic, sections} {
		_ = binary.Write(&b, binary.LittleEndian, part)
	}
	return b.String()
}

// deb is a package with files; "name -> target" is a link.
func deb(name, version, depends string, files map[string]string) archivetest.Deb {
	d := archivetest.Deb{Name: name, Version: version, Content: files}
	if depends != "" {
		d.Fields = "Depends: " + depends + "\n"
	}
	for path := range files {
		if from, to, link := strings.Cut(path, " -> "); link {
			d.Files = append(d.Files, tar.Header{Name: from, Typeflag: tar.TypeSymlink, Linkname: to})
		} else {
			d.Files = append(d.Files, tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o755})
		}
	}
	return d
}

// small is an archive with a QEMU that needs two libraries, and what it doesn't need.
func small(zlib string) []archivetest.Deb {
	return []archivetest.Deb{
		deb("qemu-system-x86", "1:10.0.13+ds-0+deb13u1", "adduser, libc6 (>= 2.38), libold | zlib1g (>= 1:1.2), libvirtual:any, qemu-system-common (= 1:10)", map[string]string{
			"./usr/bin/qemu-system-x86_64": object("libz.so.1", "libv.so.2", "libc.so.6"), "./usr/bin/qemu-system-i386": "not needed",
		}),
		deb("qemu-system-data", "1", "not-in-the-archive", map[string]string{
			"./usr/share/qemu/qboot.rom": "q", "./usr/share/qemu/pvh.bin": "p", "./usr/share/qemu/linuxboot_dma.bin": "l", "./usr/share/qemu/kvmvapic.bin": "k", "./usr/share/qemu/slof.bin": "not needed",
		}),
		deb("seabios", "1", "", map[string]string{"./usr/share/seabios/bios-microvm.bin": "b"}),
		deb("libc6", "2.41", "libgcc-s1", map[string]string{
			libs + "ld-linux-x86-64.so.2": object(), libs + "libc.so.6": object("ld-linux-x86-64.so.2"), libs + "libm.so.6": object("libc.so.6"),
		}),
		deb("libgcc-s1", "14", "", map[string]string{libs + "libgcc_s.so.1": object("libc.so.6")}),
		deb("zlib1g", zlib, "libc6", map[string]string{libs + "libz.so.1.3": object("libm.so.6"), libs + "libz.so.1 -> libz.so.1.3": ""}),
		{Name: "libreal", Version: "2", Fields: "Provides: libvirtual (= 2)\n", Content: map[string]string{libs + "libv.so.2": object("libc.so.6"), libs + "libextra.so.1": object()},
			Files: []tar.Header{{Name: libs + "libv.so.2", Typeflag: tar.TypeReg}, {Name: libs + "libextra.so.1", Typeflag: tar.TypeReg}}},
		deb("adduser", "3", "", map[string]string{"./usr/sbin/adduser": "not needed"}),
	}
}

func installer(t *testing.T, a *archivetest.Archive) packaged.Installer {
	return packaged.Installer{Dir: filepath.Join(t.TempDir(), "qemu"), From: debian.Source{
		Mirror: a.URL("debian"), Security: a.URL("debian-security"), CacheDir: filepath.Join(t.TempDir(), "downloads"), Keys: a.Keys,
	}}
}

func tree(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != ".lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestInstall(t *testing.T) {
	a := archivetest.New(t, small("1.3-1")...)
	i := installer(t, a)
	if _, err := i.Find(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found before it was fetched: %v", err)
	}
	in, err := i.Install(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if in.Short() != "10.0.13" || len(in.Packages) != 7 {
		t.Errorf("%s of %v", in.Short(), in.Packages)
	}
	want := []string{
		"lib/libc.so.6", "lib/libgcc_s.so.1", "lib/libm.so.6", "lib/libv.so.2", "lib/libz.so.1", "qemu-loader", "qemu-system-x86_64", "qemu.json",
		"share/bios-microvm.bin", "share/kvmvapic.bin", "share/linuxboot_dma.bin", "share/pvh.bin", "share/qboot.rom",
	}
	if got := tree(t, filepath.Dir(in.Path())); !slices.Equal(got, want) {
		t.Errorf("the directory has\n%v, want\n%v", got, want)
	}
	for _, program := range []string{in.Path(), in.Command()[0]} {
		if st, err := os.Stat(program); err != nil || st.Mode()&0o111 == 0 {
			t.Errorf("%s can't be run: %v", program, err)
		}
	}
	if found, err := i.Find(); err != nil || found.Path() != in.Path() || !slices.Equal(found.Command(), in.Command()) {
		t.Errorf("found %+v, %v", found, err)
	}
	if _, err := os.Stat(i.From.CacheDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("downloads stay: %v", err)
	}

	pool := archivetest.Pool(small("1.3-1")[0])
	asked := a.Asked(pool)
	if again, err := i.Install(t.Context(), nil); err != nil || again.ID != in.ID || a.Asked(pool) != asked {
		t.Errorf("again: %s, %v, asked %d times", again.ID, err, a.Asked(pool)-asked)
	}

	// An update of a library makes another QEMU, and the old one goes.
	a.Publish(t, small("1.3-2")...)
	newer, err := i.Install(t.Context(), nil)
	if err != nil || newer.ID == in.ID {
		t.Fatalf("%+v, %v", newer, err)
	}
	if found, err := i.Find(); err != nil || found.ID != newer.ID {
		t.Errorf("found %+v, %v", found, err)
	}
	if dirs, _ := filepath.Glob(filepath.Join(i.Dir, "[0-9a-f]*")); len(dirs) != 1 {
		t.Errorf("there are %v", dirs)
	}

	if err := os.WriteFile(filepath.Join(filepath.Dir(newer.Path()), "qemu.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Find(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged one was found: %v", err)
	}
	if mended, err := i.Install(t.Context(), nil); err != nil || mended.ID != newer.ID {
		t.Errorf("mended: %+v, %v", mended, err)
	}
}

// Packages that don't make a QEMU leave nothing behind.
func TestRefused(t *testing.T) {
	replaced := func(name string, with map[string]string) []archivetest.Deb {
		list := small("1")
		for n := range list {
			if list[n].Name == name {
				list[n] = deb(name, list[n].Version, "", with)
			}
		}
		return list
	}
	for name, c := range map[string]struct {
		debs []archivetest.Deb
		says string
	}{
		"no qemu":             {small("1")[1:], "no package qemu-system-x86"},
		"a library missing":   {slices.DeleteFunc(small("1"), func(d archivetest.Deb) bool { return d.Name == "libreal" }), "libv.so.2"},
		"firmware missing":    {replaced("seabios", map[string]string{"./usr/share/doc/x": ""}), "bios-microvm.bin"},
		"links in a circle":   {replaced("zlib1g", map[string]string{libs + "libz.so.1 -> libz.so.1.3": "", libs + "libz.so.1.3 -> libz.so.1": ""}), "libz.so.1"},
		"a link to elsewhere": {replaced("zlib1g", map[string]string{libs + "libz.so.1 -> /etc/passwd": ""}), "libz.so.1"},
		"a file elsewhere":    {replaced("zlib1g", map[string]string{libs + "../../../../libz.so.1": object()}), "libz.so.1"},
		"no library":          {replaced("zlib1g", map[string]string{libs + "libz.so.1": "text"}), "libz.so.1"},
		"a file twice":        {replaced("zlib1g", map[string]string{libs + "libz.so.1": object(), libs + "libc.so.6": object()}), "libc.so.6"},
	} {
		t.Run(name, func(t *testing.T) {
			i := installer(t, archivetest.New(t, c.debs...))
			_, err := i.Install(t.Context(), nil)
			if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if files := tree(t, i.Dir); len(files) > 0 {
				t.Errorf("it left %v", files)
			}
		})
	}
}

// A mirror that lacks a package of its index is said to; with it the fetch goes on.
func TestIncompleteMirror(t *testing.T) {
	a := archivetest.New(t, small("1")...)
	i := installer(t, a)
	path := archivetest.Pool(small("1")[0])
	data := a.File(path)
	a.Lose(path)
	if _, err := i.Install(t.Context(), nil); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "Not Found") {
		t.Errorf("without a package: %v", err)
	}
	if files := tree(t, i.Dir); len(files) > 0 {
		t.Errorf("it left %v", files)
	}
	a.Put(path, data)
	other := archivetest.Pool(small("1")[3])
	asked := a.Asked(other)
	if _, err := i.Install(t.Context(), nil); err != nil || a.Asked(other) != asked {
		t.Errorf("with it: %v; what was there was fetched %d times more", err, a.Asked(other)-asked)
	}
}

// A package that isn't what the signed index says is never unpacked.
func TestForged(t *testing.T) {
	a := archivetest.New(t, small("1")...)
	i := installer(t, a)
	path := archivetest.Pool(small("1")[0])
	data := slices.Clone(a.File(path))
	data[len(data)/2] ^= 1
	a.Put(path, data)
	if _, err := i.Install(t.Context(), nil); err == nil {
		t.Error("a forged package was taken")
	}
	if files := tree(t, i.Dir); len(files) > 0 {
		t.Errorf("it left %v", files)
	}
}
