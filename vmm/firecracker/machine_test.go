package firecracker

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger"
	"banger/vmm/uid"
)

func TestDescribe(t *testing.T) {
	m := banger.Machine{
		ID: "a1", VCPU: 2, MemoryMiB: 512, Kernel: "/k", Initramfs: "/i", Cmdline: "more",
		Drives: []banger.Drive{{Serial: "image", Path: "/a", ReadOnly: true}, {Serial: "disk", Path: "/b"}},
		Net:    banger.NetConfig{Mode: banger.NetUser, MAC: "52:54:00:12:34:56"},
		Limits: banger.Limits{DiskMiB: 3, DiskOps: 100, NetMiB: 2},
	}
	got, err := json.Marshal(describe(m))
	if err != nil {
		t.Fatal(err)
	}
	const disks = `"rate_limiter":{"bandwidth":{"size":3145728,"refill_time":1000},"ops":{"size":100,"refill_time":1000}}}`
	const net = `{"bandwidth":{"size":2097152,"refill_time":1000}}`
	want := `{"boot-source":{"kernel_image_path":"/k","initrd_path":"/i","boot_args":"` + kernelArgs(m) + `"},` +
		`"drives":[{"drive_id":"image","path_on_host":"drive.0","is_root_device":false,"is_read_only":true,"cache_type":"Writeback",` + disks +
		`,{"drive_id":"disk","path_on_host":"drive.1","is_root_device":false,"is_read_only":false,"cache_type":"Writeback",` + disks + `],` +
		`"machine-config":{"vcpu_count":2,"mem_size_mib":512},` +
		`"network-interfaces":[{"iface_id":"eth0","host_dev_name":"tap0","guest_mac":"52:54:00:12:34:56","rx_rate_limiter":` + net + `,"tx_rate_limiter":` + net + `}],` +
		`"vsock":{"guest_cid":3,"uds_path":"v.sock"},"entropy":{},` +
		`"balloon":{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":10,"free_page_reporting":true}}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	for _, arg := range []string{"banger.drives=image,disk", "banger.channel=vsock", "banger.reset=1", "more"} {
		if !strings.Contains(" "+kernelArgs(m)+" ", " "+arg+" ") {
			t.Errorf("no %s on the kernel's command line", arg)
		}
	}
	m.Net, m.Limits = banger.NetConfig{Mode: banger.NetNone}, banger.Limits{}
	if got, err = json.Marshal(describe(m)); err != nil || strings.Contains(string(got), "network") || strings.Contains(string(got), "limiter") {
		t.Errorf("without network and limits: %s, %v", got, err)
	}
}

// What Firecracker says is believed within bounds, and errors carry its words.
func TestAPI(t *testing.T) {
	for body, want := range map[string]string{
		`{"id":"banger-a1","state":"Running"}`:     "",
		`{"id":"banger-a2","state":"Running"}`:     "banger-a2",
		`{"id":"banger-a1","state":"Not started"}`: "Not started",
		`{"fault_message":"no such thing"}`:        "no such thing",
		"{" + strings.Repeat(" ", 1<<20):           "unexpected end",
	} {
		dir := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(dir, apiSocket))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(body, "fault") {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = w.Write([]byte(body))
		})}
		go func() { _ = server.Serve(l) }()
		err = running(t.Context(), banger.Machine{ID: "a1", Dir: dir}, machineTimeout)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", body, err, want)
		}
		if pid, err := (vmm{}).Listener(t.Context(), banger.Machine{ID: "a1", Dir: dir}); err != nil || pid != os.Getpid() {
			t.Errorf("who listens: %d, %v; want %d", pid, err, os.Getpid())
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A jail's socket is found by a daemon that doesn't know of what program it is.
func TestAPIInJail(t *testing.T) {
	m := banger.Machine{ID: "a1", Dir: filepath.Join(t.TempDir(), "odd [1]*")}
	j := jailOf(m, "/opt/firecracker-v1.16.1-x86_64")
	if err := os.MkdirAll(j.root, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(j.root, apiSocket))
	if err != nil {
		t.Skip(err) // too deep for a socket's path
	}
	defer l.Close()
	if pid, err := (vmm{}).Listener(t.Context(), m); err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v", pid, err)
	}
	if err := j.clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(j.dir); err == nil {
		t.Error("the jail is still there")
	}
}

// The kernel shows mounts by their real paths. A jail that is reached through a link
// is emptied and removed all the same.
func TestClearJailBehindLink(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	uid.Taken = t.TempDir()
	base := t.TempDir()
	real, link := filepath.Join(base, "real"), filepath.Join(base, "link")
	if err := os.MkdirAll(filepath.Join(real, "vm"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(base, "kernel")
	if err := os.WriteFile(kernel, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := jailOf(banger.Machine{ID: "a1", Dir: filepath.Join(link, "vm")}, "/opt/firecracker")
	if err := os.MkdirAll(j.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := j.admit(kernel, "kernel", true); errors.Is(err, unix.EPERM) {
		t.Skip("nothing can be mounted here:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(j.root, "kernel"), unix.MNT_DETACH) })
	if err := j.clear(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(j.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the jail is still there: %v", err)
	}
	if b, err := os.ReadFile(kernel); err != nil || string(b) != "kernel" {
		t.Errorf("the kernel is %q, %v", b, err)
	}
}

// A program in a jail may be another's by now: what its socket's place leads to isn't
// asked, and what it left as a template's file must be one.
func TestJailWithTraps(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink(elsewhere, filepath.Join(dir, apiSocket)); err != nil {
		t.Fatal(err)
	}
	if pid, err := (vmm{}).Listener(t.Context(), banger.Machine{ID: "a1", Dir: dir}); err == nil {
		t.Errorf("a link to a socket of process %d was followed", pid)
	}
	for what, plant := range map[string]func(string) error{
		"pipe": func(p string) error { return unix.Mkfifo(p, 0o600) },
		"link": func(p string) error { return os.Symlink("/etc/passwd", p) },
	} {
		if err := plant(filepath.Join(dir, what)); err != nil {
			t.Fatal(err)
		}
		if err := take(filepath.Join(dir, what), filepath.Join(dir, "taken")); err == nil {
			t.Errorf("a %s was taken for a file", what)
		}
	}
}
