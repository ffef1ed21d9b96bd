// Package tests_test runs scripts of the real command line against a real
// daemon process. With -host=fake, the default, that daemon is this test binary
// with the engine on the host in memory, whose guests run their commands here;
// with -host=qemu it is bangerd, and the guests are microVMs.
package tests_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/guest/agent/tool"
)

var (
	host       = flag.String("host", "fake", "what the VMs run on: fake or qemu")
	hypervisor = flag.String("hypervisor", "", "with -host=qemu: firecracker has the daemon find the one of BANGER_FIRECRACKER, which it then prefers")
)

// bin holds the programs under test; real is the daemon as it ships, whatever the
// scripts' VMs run on.
var bin, shipped string

func TestMain(m *testing.M) {
	if os.Args[0] == tool.Name { // of a guest on the fake host
		os.Exit(tool.Main(os.Args))
	}
	if filepath.Base(os.Args[0]) == "bangerd" {
		if err := fakeDaemon(); err != nil {
			fmt.Fprintln(os.Stderr, "bangerd:", err)
			os.Exit(1)
		}
		return
	}
	if filepath.Base(os.Args[0]) == "nolocks" {
		fmt.Fprintln(os.Stderr, "nolocks:", withoutLocks(os.Args[1:]))
		os.Exit(1)
	}
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "banger-script")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		bin = dir
		if err := build(); err != nil {
			fmt.Println(err)
			return 1
		}
		return m.Run()
	}())
}

// build puts the command line into bin, and a daemon beside it. BANGER_BIN
// names programs that are built already, for a machine without Go.
func build() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(self, filepath.Join(bin, "nolocks")); err != nil {
		return err
	}
	shipped = filepath.Join(bin, "bangerd")
	if built := os.Getenv("BANGER_BIN"); built != "" && *host == "qemu" {
		for _, name := range []string{"banger", "bangerd"} {
			err = errors.Join(err, os.Symlink(filepath.Join(built, name), filepath.Join(bin, name)))
		}
		return err
	}
	programs := []string{"banger/cmd/banger", "banger/cmd/bangerd"}
	if *host == "qemu" {
		programs = []string{"banger/cmd/..."}
	}
	args := []string{"build", "-ldflags", "-s -w", "-o", bin + "/"}
	if os.Getenv("BANGER_COVERDIR") != "" { // where programs say which of their code ran
		args = append(args, "-cover", "-coverpkg=banger/...")
	}
	cmd := exec.Command("go", append(args, programs...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	if *host == "qemu" {
		return nil
	}
	fake := shipped
	shipped += "-shipped"
	return errors.Join(os.Rename(fake, shipped), os.Symlink(self, fake))
}

func TestScripts(t *testing.T) {
	if *host == "qemu" {
		if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
			t.Skip("no qemu-system-x86_64 here")
		}
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	image := rootTar(t)
	cache := t.TempDir()
	if user, err := os.UserCacheDir(); err == nil && *host == "qemu" {
		cache = filepath.Join(user, "banger-test", "script")
	}
	kernels := filepath.Join(cache, "kernels")
	if err := os.MkdirAll(kernels, 0o700); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:               append(scripts, docScripts(t)...),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			return cond == *host || cond == "root" && os.Getuid() == 0 || cond == "lab" && os.Getenv("BANGER_LAB") != "", nil
		},
		Setup: func(env *testscript.Env) error {
			for key, dir := range map[string]string{"HOME": "home", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data",
				"XDG_CONFIG_HOME": "config"} {
				dir = filepath.Join(env.WorkDir, dir)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
				env.Setenv(key, dir)
			}
			// Kernels are fetched once and kept between runs, templates aren't.
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			if err := os.MkdirAll(filepath.Join(env.WorkDir, "data/banger"), 0o700); err != nil {
				return err
			}
			if err := os.Symlink(kernels, filepath.Join(env.WorkDir, "data/banger/kernels")); err != nil {
				return err
			}
			env.Setenv("IMAGE", image)
			if *host == "qemu" { // VMs of one size on every host
				conf, on := filepath.Join(env.WorkDir, "config/banger"), ""
				if *hypervisor == "" { // what users get by default, test/vm has
					on = "hypervisor = \"qemu\"\n"
				}
				if err := errors.Join(os.MkdirAll(conf, 0o700), os.WriteFile(filepath.Join(conf, "config.toml"), []byte("vcpu = 1\nmemory_mib = 1024\nproxy_port = 0\n"+on), 0o600)); err != nil {
					return err
				}
			}
			if dir := os.Getenv("BANGER_COVERDIR"); dir != "" { // go test -cover has a GOCOVERDIR of its own
				env.Setenv("GOCOVERDIR", dir)
			}
			path := bin + ":" + os.Getenv("PATH")
			if *hypervisor == "firecracker" {
				path += ":" + filepath.Dir(os.Getenv("BANGER_FIRECRACKER"))
			}
			env.Setenv("PATH", path)
			env.Defer(func() { endDaemon(t, env) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"archive":    archive(t),
			"killdaemon": killDaemon,
			"install":    install,
			"status":     status,
		},
	})
}

func banger(env *testscript.Env, args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(bin, "banger"), args...)
	cmd.Env = env.Vars
	return cmd.CombinedOutput()
}

// endDaemon deletes what a script left and ends its daemon.
func endDaemon(t *testing.T, env *testscript.Env) {
	if out, err := banger(env, "daemon", "status", "--json"); err != nil || !strings.Contains(string(out), `"running":true`) {
		return
	}
	names, err := banger(env, "ps", "-q")
	if list := strings.Fields(string(names)); err == nil && len(list) > 0 {
		if out, err := banger(env, append([]string{"vm", "delete"}, list...)...); err != nil {
			t.Errorf("clean up: %v: %s", err, out)
		}
	}
	if out, err := banger(env, "daemon", "stop"); err != nil {
		t.Errorf("daemon stop: %v: %s", err, out)
	}
}

// install gives the script's daemon a kernel and an image under the default names.
func install(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("banger", "kernel", "pull", "-q"))
	ts.Check(ts.Exec("banger", "image", "import", "-q", "--name", "debian-12", ts.Getenv("IMAGE")))
}

// killDaemon kills the daemon as kill -9 does.
func killDaemon(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("sh", "-c", `kill -9 $(banger daemon status --json | sed 's/.*"pid":\([0-9]*\).*/\1/')`))
}

// status N COMMAND... runs a command that must end with status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("status %d, want %s", got, args[0])
	}
}

// rootTar makes a small root file system: busybox with all its names.
func rootTar(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "lib", "proc", "root", "run", "sys", "tmp", "var"} {
		add(tar.Header{Name: "./" + dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "./etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	if *host == "qemu" {
		busybox, err := os.ReadFile("/bin/busybox")
		if err != nil {
			t.Skip("no /bin/busybox here (Debian: busybox-static)")
		}
		add(tar.Header{Name: "./bin/busybox", Mode: 0o755}, busybox)
		names, err := exec.Command("/bin/busybox", "--list").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(string(names)) {
			if name != "busybox" {
				add(tar.Header{Name: "./bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
