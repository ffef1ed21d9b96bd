package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/image/erofs"
)

// image is a flat filesystem: what a test adds lands in its root.
type image struct {
	*erofs.Writer
	t       *testing.T
	file    *os.File
	entries []erofs.Entry
	root    erofs.Attr
}

func newImage(t *testing.T) *image {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &image{Writer: erofs.NewWriter(f), t: t, file: f, root: erofs.Attr{Mode: erofs.ModeDir | 0o755}}
}

func (m *image) add(name string, mode uint16) func(erofs.Inode, error) {
	return func(i erofs.Inode, err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatalf("%s: %v", name, err)
		}
		m.entries = append(m.entries, erofs.Entry{Name: []byte(name), Inode: i, Mode: mode})
	}
}

func (m *image) list() erofs.Entries {
	slices.SortFunc(m.entries, func(a, b erofs.Entry) int { return bytes.Compare(a.Name, b.Name) })
	return erofs.Entries(slices.Values(m.entries))
}

func (m *image) close() {
	m.t.Helper()
	root, err := m.PlaceRoot(m.root)
	if err = errors.Join(err, m.WriteDir(root, root, m.root, 2, m.list()), m.Close()); err != nil {
		m.t.Fatal(err)
	}
	info, err := m.file.Stat()
	if err != nil || info.Size() != m.Size() {
		m.t.Errorf("file has %d bytes, image %d: %v", info.Size(), m.Size(), err)
	}
}

// mount returns where the kernel shows the image.
func (m *image) mount() string {
	m.t.Helper()
	if os.Getuid() != 0 {
		m.t.Skip("must be root to mount")
	}
	if _, err := exec.LookPath("fsck.erofs"); err != nil {
		m.t.Skip("fsck.erofs is missing")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		m.t.Skip("no loop devices here, as in most containers: ", err)
	}
	dir := m.t.TempDir()
	for _, cmd := range [][]string{
		{"fsck.erofs", "--extract", m.file.Name()},
		{"mount", "-t", "erofs", "-o", "loop,ro", m.file.Name(), dir},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			m.t.Fatalf("%q: %v\n%s", cmd, err, out)
		}
	}
	m.t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			m.t.Error(err)
		}
	})
	return dir
}

// Files of every size around a border of the format, with attributes of every
// size that moves those borders, read back as they were.
func TestFilesReadBack(t *testing.T) {
	m := newImage(t)
	want := map[string]string{}
	for _, fat := range []int{0, 1, 2000, 4000, 4096, 65535} {
		set := map[string]string{}
		if fat > 0 {
			set["user.fat"] = strings.Repeat("v", fat)
		}
		xattrs, err := erofs.EncodeXattrs(set)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, 2000, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 12289, 1<<20 + 4096*2 + 7} {
			for _, fill := range []string{"text", "hole", "head", "tail"} {
				b := bytes.Repeat([]byte{0}, size)
				for i := range b {
					if fill == "text" || fill == "head" && i < 100 || fill == "tail" && i >= size-100 {
						b[i] = byte(i%251) + 1
					}
				}
				name := fmt.Sprintf("%d-%d-%s", fat, size, fill)
				want[name] = string(b)
				m.add(name, erofs.ModeRegular)(m.File(erofs.Attr{Mode: erofs.ModeRegular | 0o644, Xattrs: xattrs}, int64(size), bytes.NewReader(b)))
			}
		}
	}
	m.close()
	dir := m.mount()
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(content))
		}
		var fat int
		fmt.Sscanf(name, "%d-", &fat)
		if fat > 0 {
			value := make([]byte, 1<<17)
			n, err := unix.Getxattr(filepath.Join(dir, name), "user.fat", value)
			if n != fat || err != nil {
				t.Errorf("%s: attribute of %d bytes, %v", name, n, err)
			}
		}
	}
}

// A directory finds each of its names, whatever sorts around "." and "..", and
// however many blocks they take.
func TestNamesAreFound(t *testing.T) {
	for _, count := range []int{0, 1, 100, 5000} {
		m := newImage(t)
		names := []string{"!", "-", "...", "..a", ".a", "\x01", "\xff", strings.Repeat("z", 255)}
		for i := range count {
			names = append(names, fmt.Sprintf("%d%s", i*7919%count, strings.Repeat("n", i%200)))
		}
		slices.Sort(names)
		for i, name := range slices.Compact(names) {
			m.add(name, erofs.ModeSymlink)(m.Symlink(erofs.Attr{Mode: erofs.ModeSymlink | 0o777}, fmt.Sprintf("to %d", i)))
		}
		m.close()
		dir := m.mount()
		for i, e := range m.entries {
			got, err := os.Readlink(dir + "/" + string(e.Name))
			if err != nil || got != fmt.Sprintf("to %d", i) {
				t.Fatalf("%d names: %q is %q, %v", count, e.Name, got, err)
			}
		}
		found, err := os.ReadDir(dir)
		if err != nil || len(found) != len(m.entries) {
			t.Errorf("%d names listed, %v; want %d", len(found), err, len(m.entries))
		}
	}
}

// Link counts change wherever the inode is: still in memory, or long written.
func TestLink(t *testing.T) {
	m := newImage(t)
	attr := erofs.Attr{Mode: erofs.ModeFIFO | 0o600}
	var nodes []erofs.Inode
	for i := range 3000 {
		n, err := m.Special(attr, 0, 0)
		m.add(fmt.Sprint(i), erofs.ModeFIFO)(n, err)
		nodes = append(nodes, n)
	}
	for _, i := range []int{0, 1500, 2999} {
		for range 3 {
			if _, err := m.Link(nodes[i], 1); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := m.Link(nodes[i], -1); n != 3 || err != nil {
			t.Errorf("%d links, %v; want 3", n, err)
		}
	}
	m.close()
	dir := m.mount()
	for name, want := range map[string]uint64{"0": 3, "1": 1, "1500": 3, "2999": 3} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Nlink != want {
			t.Errorf("%s: %d links, %v; want %d", name, st.Nlink, err, want)
		}
	}
}

func TestWhatDoesNotFit(t *testing.T) {
	m := newImage(t)
	attr := erofs.Attr{Mode: erofs.ModeRegular}
	if _, err := m.File(attr, 10, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a small file cut off: %v", err)
	}
	if _, err := m.File(attr, 10000, strings.NewReader(strings.Repeat("short", 1000))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file cut off: %v", err)
	}
	if _, err := m.File(attr, 1<<63-1, strings.NewReader("")); err == nil {
		t.Error("a file of 8 EiB was taken")
	}
	for _, dev := range [][2]uint32{{1 << 12, 0}, {0, 1 << 20}} {
		if _, err := m.Special(attr, dev[0], dev[1]); !errors.Is(err, erofs.ErrTooLarge) {
			t.Errorf("device %v: %v", dev, err)
		}
	}
	fat, err := erofs.EncodeXattrs(map[string]string{"trusted.x": strings.Repeat("x", 3000)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.PlaceRoot(erofs.Attr{Mode: erofs.ModeDir, Xattrs: fat}); !errors.Is(err, erofs.ErrXattr) {
		t.Errorf("a root of 3000 bytes: %v", err)
	}
}

func TestEncodeXattrs(t *testing.T) {
	huge := map[string]string{}
	for i := range 5 {
		huge[fmt.Sprintf("user.%d", i)] = strings.Repeat("x", 65000)
	}
	names := map[string]string{}
	for i := range 300 {
		names[fmt.Sprintf("user.%0240d", i)] = ""
	}
	for name, set := range map[string]map[string]string{
		"name space":  {"com.apple.x": ""},
		"no name":     {"user.": ""},
		"acl's child": {"system.posix_acl_access.x": ""},
		"long name":   {"user." + strings.Repeat("x", 251): ""},
		"long value":  {"user.x": strings.Repeat("x", 65536)},
		"large set":   huge,
		"many names":  names,
	} {
		if _, err := erofs.EncodeXattrs(set); !errors.Is(err, erofs.ErrXattr) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if x, err := erofs.EncodeXattrs(nil); len(x) != 0 || err != nil {
		t.Errorf("no attributes: %v, %v", x, err)
	}
}
