package gc_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger"
	"banger/daemon/gc"
)

// What is there is counted by kind, a file with two names once, a sparse one by
// what it takes; what no VM uses is told.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	write := func(path string, size int) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const mib = 1 << 20
	write("state/banger.db", mib)
	write("state/daemon.log", mib)
	write("state/vms/"+ours+"/console.log", mib)
	write("state/vms/"+ours+"/shim.sock.lock", 1)
	disk := write("state/vms/"+ours+"/disk.ext4", mib)
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	image := write("data/images/111111111111.erofs", 3*mib)
	write("data/images/222222222222.erofs", 2*mib)
	write("data/kernels/333333333333/vmlinux", mib)
	write("data/kernels/333333333333/modules.erofs", mib)
	if err := os.Link(image, filepath.Join(dir, "data/images/.again")); err != nil {
		t.Fatal(err)
	}
	write("data/disks/ext4-1.img", mib)
	write("cache/downloads/x.part", mib)
	write("ram/banger-"+ours+".ram", mib)
	write("ram/banger-"+other+".ram", mib)
	c := &gc.Collector{Dir: dir + "/state", Data: dir + "/data", Cache: dir + "/cache", RAMDirs: []string{dir + "/ram"},
		VMs: func(context.Context) ([]banger.VM, error) {
			return []banger.VM{{ID: ours, ImageID: "111111111111", KernelID: "333333333333", Spec: banger.Spec{Name: "web"}}}, nil
		}}
	list, err := c.Space(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	var all, unused int64
	for _, s := range list {
		got[s.Kind] += s.Bytes
		all += s.Bytes
		if s.Unused {
			unused += s.Bytes
		}
		if (s.Kind == "disk" || s.Kind == "memory" || s.Name == ours) && s.VM != "web" {
			t.Errorf("whose is %+v", s)
		}
	}
	// A filesystem may add a block of its own to a large file.
	for kind, want := range map[string]int64{"image": 5, "kernel": 2, "disk": 1, "disk base": 1, "log": 2, "records": 1, "download": 1, "memory": 1} {
		if got[kind] < want*mib || got[kind] > want*mib+64<<10 {
			t.Errorf("%s takes %d bytes, want %d MiB", kind, got[kind], want)
		}
	}
	if unused < 3*mib || unused > 3*mib+64<<10 { // an image and a download
		t.Errorf("unused are %d bytes, want 3 MiB", unused)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(disk, &st); err != nil || st.Size != 64<<20 {
		t.Errorf("the disk isn't sparse: %+v (%v)", st, err)
	}
}
