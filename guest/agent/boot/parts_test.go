package boot_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/boot"
)

func TestHosts(t *testing.T) {
	const fresh = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"
	for _, c := range []struct{ old, want string }{
		{"", fresh},
		{"\n", fresh},
		{fresh, fresh},
		{"10.0.0.1 db # not box", "10.0.0.1 db # not box\n127.0.1.1\tbox\n"},
		{"10.0.0.1 web box\n", "10.0.0.1 web box\n"},
		{"10.0.0.1 boxes\n", "10.0.0.1 boxes\n127.0.1.1\tbox\n"},
	} {
		if d := cmp.Diff(c.want, boot.Hosts(c.old, "box")); d != "" {
			t.Errorf("%q: %s", c.old, d)
		}
	}
}

// TestUpdateFile writes to what an image may have in a file's place.
func TestUpdateFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string) error {
		return boot.UpdateFile(at(name), 0o644, func(old string) string { return "new" })
	}
	for name, target := range map[string]string{"dangling": "no/such/dir", "loop": "loop", "link": "longer"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	mode := os.FileMode(0o444) // no obstacle to the agent, which is root
	if os.Geteuid() != 0 {
		mode = 0o644
	}
	if err := os.WriteFile(at("longer"), []byte("longer than new"), mode); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"absent", "dangling", "loop", "link"} {
		if err := write(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(at(name)); string(got) != "new" {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "dir"} {
		if err := write(name); err == nil {
			t.Errorf("wrote to a %s", name)
		}
	}
}

func TestMountPoints(t *testing.T) {
	got := boot.MountPoints("22 1 0:20 / / rw shared:1 - tmpfs tmpfs rw\n" +
		`23 22 254:0 / /mnt/with\040space\011tab\134 ro - ext4 /dev/vda ro` + "\nnot a mount\n\n")
	if d := cmp.Diff([]string{"/", "/mnt/with space\ttab\\"}, got); d != "" {
		t.Error(d)
	}
}

func TestStagesSurviveTheEnvironment(t *testing.T) {
	want := []guest.Stage{{Name: "init: two words", AtUS: 1, TookUS: 22}, {Name: "b", AtUS: 3}}
	if d := cmp.Diff(want, boot.DecodeStages(boot.EncodeStages(want))); d != "" {
		t.Error(d)
	}
	if got := boot.DecodeStages("x\n1 y z\n1 2\n"); got != nil {
		t.Errorf("nonsense gave %v", got)
	}
}

func TestSuperblock(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("mke2fs is missing")
	}
	path := filepath.Join(t.TempDir(), "disk")
	run(t, "/", "mke2fs", "-q", "-t", "ext4", "-b", "4096", path, "48M")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if size, blocks := boot.Superblock(data[1024:2048]); size != 4096 || blocks != 48<<20/4096 {
		t.Errorf("%d blocks of %d", blocks, size)
	}
}

// TestInRoot has an image's links try to lead out of it.
func TestInRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for name, target := range map[string]string{"lib": "usr/lib", "out": outside, "up": "../../../../../.."} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, path := range []string{"lib/modules/6.1", "up/made"} {
		made, err := boot.MakeInRoot(fd, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		unix.Close(made)
	}
	for _, path := range []string{"usr/lib/modules/6.1", "made"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	_, _ = boot.MakeInRoot(fd, "out/made") // refused or made inside, both will do
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("%s was written to: %v", outside, left)
	}
	if _, err := boot.InRoot(fd, strings.Repeat("../", 20)+"etc"); err == nil {
		t.Error("led out of the root")
	}
}

// An init takes a signal when it catches or blocks it, not before.
func TestTakes(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read line; trap 'exit 7' USR2; echo caught; while read line; do :; done")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), cmd.Wait() }()
	process := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
	if boot.Takes(process, syscall.SIGUSR2) {
		t.Error("taken before it is caught")
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if !boot.Takes(process, syscall.SIGUSR2) || boot.Takes(process, 34+4) {
		t.Error("caught, and not taken")
	}
}
