package initramfs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/kernel/initramfs"
)

func build(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	err := initramfs.Build(&b, []byte("an agent\n"),
		[]initramfs.Module{{Name: "virtio", Data: []byte("v")}, {Name: "overlay", Data: []byte("ov")}},
		[]initramfs.Module{{Name: "virtio_blk", Data: []byte("blk")}})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBuildIsDeterministic(t *testing.T) {
	if !bytes.Equal(build(t), build(t)) {
		t.Error("two builds of the same input differ")
	}
}

// TestReadBack has another implementation of the format read what we wrote.
func TestReadBack(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is missing")
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d", "init", "lib/*", "sysroot")
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(build(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]string{}
	for _, name := range []string{"init", "lib/banger/early/00-virtio.ko", "lib/banger/early/01-overlay.ko", "lib/banger/late/00-virtio_blk.ko"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		got[name] = string(data)
	}
	want := map[string]string{"init": "an agent\n", "lib/banger/early/00-virtio.ko": "v", "lib/banger/early/01-overlay.ko": "ov", "lib/banger/late/00-virtio_blk.ko": "blk"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	st, err := os.Stat(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o755 {
		t.Errorf("init has mode %v", st.Mode())
	}
}

// TestWholePages: of whatever size the agent is.
func TestWholePages(t *testing.T) {
	for size := range 5000 {
		var b bytes.Buffer
		if err := initramfs.Build(&b, make([]byte, size), nil, nil); err != nil || b.Len()%4096 != 0 {
			t.Fatalf("an agent of %d bytes: %d bytes, %v", size, b.Len(), err)
		}
	}
}

func TestRefusesBadModules(t *testing.T) {
	for _, name := range []string{"", "a/b", "a\x00"} {
		err := initramfs.Build(&bytes.Buffer{}, nil, []initramfs.Module{{Name: name}}, nil)
		if err == nil || !strings.Contains(err.Error(), "module name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := initramfs.Build(&bytes.Buffer{}, nil, nil, make([]initramfs.Module, 101)); err == nil {
		t.Error("101 modules were accepted")
	}
}
