package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/image/ext4"
	"banger/image/node"
)

// small makes a small file system of a few files, without mounting one.
func small(t testing.TB) []byte {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("mke2fs is missing")
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	err = errors.Join(os.MkdirAll(filepath.Join(tree, "upper/etc"), 0o755), os.WriteFile(filepath.Join(tree, "upper/etc/conf"), []byte(strings.Repeat("conf", 3000)), 0o644),
		os.Symlink("conf", filepath.Join(tree, "upper/etc/link")), os.Symlink(strings.Repeat("l", 100), filepath.Join(tree, "upper/long")))
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-O", "64bit,metadata_csum,meta_bg,^resize_inode", "-N", "64", "-d", tree, image, "2M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// walk reads all of a tree, within a bound of names.
func walk(t node.Tree, ino uint64, path string, left *int) (files []string, err error) {
	names, err := t.Names(ino)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if *left--; *left < 0 {
			return files, nil
		}
		a, err := t.Attr(n.Ino)
		if err != nil {
			return nil, err
		}
		switch a.Type() {
		case node.ModeDir:
			more, err := walk(t, n.Ino, path+"/"+n.Name, left)
			if files = append(files, more...); err != nil {
				return nil, err
			}
		case node.ModeRegular, node.ModeSymlink:
			r, err := t.Content(n.Ino)
			if err != nil {
				return nil, err
			}
			if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
				return nil, err
			}
			files = append(files, path+"/"+n.Name)
		}
	}
	return files, nil
}

// memory is a file system in memory.
type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// What no file system has is refused, and the error says so.
func TestRefused(t *testing.T) {
	good := small(t)
	fs, err := ext4.Open(memory(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	left := 100
	files, err := walk(fs, fs.Root(), "", &left)
	if err != nil || strings.Join(files, " ") != "/upper/etc/conf /upper/etc/link /upper/long" {
		t.Errorf("%q, %v", files, err)
	}
	for says, change := range map[string]struct {
		at    int
		value string
	}{
		"no superblock":      {1024 + 0x38, "x"},
		"blocks of 1<<":      {1024 + 0x18, "\x07"},
		"aren't known":       {1024 + 0x60, "\x00\x80\x01\x00"},
		"contradicts itself": {1024 + 0x58, "\x01\x00"},
		"no inode":           {1024 + 0x00, "\x01\x00\x00\x00"},
	} {
		b := append([]byte{}, good...)
		copy(b[change.at:], change.value)
		fs, err := ext4.Open(memory(b), int64(len(b)))
		if err == nil {
			_, err = fs.Names(fs.Root())
		}
		if !errors.Is(err, ext4.ErrFormat) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if _, err := ext4.Open(memory(good[:4096]), 4096); err == nil {
		fs, _ := ext4.Open(memory(good[:4096]), 4096)
		if _, err := fs.Names(fs.Root()); !errors.Is(err, ext4.ErrFormat) {
			t.Errorf("cut off: %v", err)
		}
	}
}

// A tree of extents that costs no room isn't followed: it could be read for ever.
func TestEndlessExtents(t *testing.T) {
	good := small(t)
	le, magic := binary.LittleEndian, []byte{0x0A, 0xF3}
	empty := len(good) - 4096
	for says, change := range map[string]func(b, header []byte){
		"of nothing": func(_, header []byte) { le.PutUint16(header[12+4:], 0) },
		"empty node": func(b, header []byte) {
			copy(b[empty:], []byte{0x0A, 0xF3, 0, 0, 4, 0, 0, 0})
			le.PutUint16(header[6:], 1)
			le.PutUint32(header[12+4:], uint32(empty/1024)) // 2 MiB have blocks of 1 KiB
			le.PutUint16(header[12+8:], 0)
		},
		"has 4294968320 bytes": func(b, header []byte) { le.PutUint32(b[len(b)-cap(header)-0x28+0x6C:], 1) }, // of its inode: 4 GiB
	} {
		found := false
		for at := 0; at < len(good)-64; at += 4 {
			if !bytes.Equal(good[at:at+2], magic) || le.Uint16(good[at+2:]) != 1 || le.Uint16(good[at+6:]) != 0 {
				continue
			}
			b := bytes.Clone(good)
			change(b, b[at:len(b):len(b)])
			fs, err := ext4.Open(memory(b), int64(len(b)))
			if err == nil {
				left := 100
				_, err = walk(fs, fs.Root(), "", &left)
			}
			found = found || errors.Is(err, ext4.ErrFormat) && strings.Contains(err.Error(), says)
		}
		if !found {
			t.Errorf("%q isn't said of any file", says)
		}
	}
}

// A file system of which some bytes are others is read or refused, and always to an end.
func FuzzDamaged(f *testing.F) {
	good := small(f)
	for _, at := range []uint32{1024, 1024 + 0x60, 4096, 2 * 4096, 40 * 1024, 200 * 1024} {
		f.Add(at, []byte{0xFF, 0xFF}, uint32(1024+0x60), []byte{0xC6})
	}
	f.Fuzz(func(t *testing.T, at uint32, value []byte, at2 uint32, value2 []byte) {
		b := append([]byte{}, good...)
		copy(b[int(at)%len(b):], value)
		copy(b[int(at2)%len(b):], value2)
		fs, err := ext4.Open(memory(b), int64(len(b)))
		if err == nil {
			left := 1000
			_, err = walk(fs, fs.Root(), "", &left)
		}
		if err != nil && !errors.Is(err, ext4.ErrFormat) {
			t.Errorf("%v", err)
		}
	})
}
