package vhost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/fetch/debian"
	"banger/guest"
	"banger/guest/link"
	"banger/image/rootfs"
	"banger/kernel"
	"banger/test/vmtest"
	"banger/vmm/vhost"
)

// machine is a guest in User-mode Linux, which sees only its own directory. That is no jail:
// only this test's guest runs so.
type machine struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	out    bytes.Buffer
	exited chan error
	client guest.Client
	kernel string // its version
}

const patience = 2 * time.Minute // for a busy host

// Debian's User-mode Linux boots our agent over a real device, which carries commands and
// bulk; then it powers off.
func TestUserModeLinux(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches a kernel and boots it")
	}
	m := boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ready, err := m.client.Configure(ctx, guest.Identity{
		ID: "a1", Hostname: "a1", MachineID: strings.Repeat("a", 32), Entropy: random(32), KernelVersion: m.kernel,
		Drives: guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"},
	})
	if err != nil || ready.DiskMiB != 128 {
		t.Fatalf("configure: %+v, %v\n%s", ready, err, m.out.String())
	}
	var out bytes.Buffer
	status, err := m.client.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", "uname -r; ls /lib/modules; echo x >/x; cat /x; exit 7"}}, guest.IO{Stdout: &out})
	if want := m.kernel + "\n" + m.kernel + "\nx\n"; err != nil || status.Code != 7 || out.String() != want {
		t.Errorf("a command: %+v, %q, %v; want %q", status, out.String(), err, want)
	}
	in := random(24 << 20)
	out.Reset()
	began := time.Now()
	status, err = m.client.Exec(ctx, guest.ExecSpec{Argv: []string{"cat"}, Stdin: true}, guest.IO{Stdin: bytes.NewReader(in), Stdout: &out})
	if err != nil || !bytes.Equal(out.Bytes(), in) {
		t.Errorf("24 MiB through a command came back as %d bytes, %+v, %v", out.Len(), status, err)
	}
	t.Logf("24 MiB through a command took %v", time.Since(began))
	if err := m.client.Shutdown(ctx, "poweroff"); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	select {
	case err := <-m.exited:
		if err != nil {
			t.Errorf("after a power-off it ended with %v\n%s", err, m.out.String())
		}
		m.exited <- err
	case <-ctx.Done():
		t.Error("it doesn't power off")
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

// boot starts a machine, up to the agent's answer.
func boot(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), exited: make(chan error, 1)}
	m.furnish()
	listen := func(name string) *net.UnixListener {
		l, err := net.Listen("unix", filepath.Join(m.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l.(*net.UnixListener)
	}
	inside, outside := listen("vmm"), listen("host")
	device, ended := vhost.New(), make(chan error, 1)
	go func() { ended <- device.Run(inside, outside) }()
	m.cmd = exec.Command("/linux", "mem=256M", "initrd=/initramfs", "con=null", "con0=fd:0,fd:1", "ssl=null", "quiet",
		"ubd0r=/image", "ubd1r=/modules", "ubd2=/disk", "virtio_uml.device=/vmm:19", "banger.channel=vsock", "banger.drives=image,modules,disk",
		"initcall_blacklist=raid6_select_algo,raid6_init,init_btrfs_fs", "lpj=14000000", "pty.legacy_count=0")
	m.cmd.Dir, m.cmd.Env = "/", []string{"TMPDIR=/tmp", "HOME=/"} // without HOME it crashes
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.dir, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		m.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		m.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	began := time.Now()
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.exited <- m.cmd.Wait() }()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill() // it may have ended
		<-m.exited
		_ = inside.Close()
		if err := <-ended; err == nil {
			t.Error("the device ended without a reason")
		}
	})
	mux := m.connect()
	t.Cleanup(func() { _ = mux.Close() })
	m.client.Dial = func(ctx context.Context) (net.Conn, error) { return mux.Open(ctx) }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := m.client.Health(ctx); err != nil {
		t.Fatalf("the agent doesn't answer: %v\n%s", err, m.out.String())
	}
	t.Logf("the agent answers after %v", time.Since(began))
	return m
}

// connect connects to the agent's port as a shim does, and tries again while it boots.
func (m *machine) connect() *link.Mux {
	m.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(m.dir, "host"))
		if err != nil {
			m.t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		line := make([]byte, len("OK 1073741825\n"))
		if _, err = fmt.Fprintf(conn, "CONNECT 512\n"); err == nil {
			_, err = io.ReadFull(conn, line)
		}
		if err == nil && strings.HasPrefix(string(line), "OK ") {
			_ = conn.SetReadDeadline(time.Time{})
			return link.New(conn, link.Host)
		}
		_ = conn.Close()
		select {
		case err := <-m.exited:
			m.exited <- err
			m.t.Fatalf("it ended: %v\n%s", err, m.out.String())
		default:
		}
	}
	m.t.Fatalf("no agent\n%s", m.out.String())
	return nil
}

// furnish gives the machine's directory a kernel, an image and a disk.
func (m *machine) furnish() {
	t := m.t
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("mke2fs is missing")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "banger-test", "uml")
	agent := filepath.Join(t.TempDir(), "banger-agent")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", agent, "banger/cmd/banger-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kernels := &kernel.Kernels{
		Dir: filepath.Join(cache, "kernels"), From: debian.Source{CacheDir: filepath.Join(cache, "downloads")}, Agent: agent,
		Flatten: func(ctx context.Context, tar io.Reader, out *os.File) error {
			_, err := rootfs.Write(ctx, tar, out, nil)
			return err
		},
	}
	got, err := kernels.Pull(t.Context(), "debian-13-uml", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := kernels.Boot(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	m.kernel = got.Version
	tar := filepath.Join(t.TempDir(), "small.tar")
	err = errors.Join(vmtest.SmallTar(tar), os.Mkdir(filepath.Join(m.dir, "lib64"), 0o755), os.Mkdir(filepath.Join(m.dir, "tmp"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	libraries := filepath.Join(filepath.Dir(files.Vmlinux), "lib")
	for to, from := range map[string]string{
		"linux": files.Vmlinux, "initramfs": files.Initramfs, "modules": files.Modules,
		"lib64/libc.so.6": libraries + "/libc.so.6", "lib64/ld-linux-x86-64.so.2": libraries + "/ld-linux-x86-64.so.2",
	} {
		if out, err := exec.Command("install", "-m", "755", from, filepath.Join(m.dir, to)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	in, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	image, err := os.Create(filepath.Join(m.dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := rootfs.Write(t.Context(), in, image, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", filepath.Join(m.dir, "disk"), "128M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
