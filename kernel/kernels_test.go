package kernel_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/fetch/debian"
	"banger/kernel"
)

// kernels returns Kernels in a fresh directory whose modules "image" is the
// tar itself, so that a test can look into it.
func kernels(t *testing.T) *kernel.Kernels {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	if err := os.WriteFile(agent, []byte("the agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &kernel.Kernels{
		Dir: filepath.Join(dir, "kernels"), From: debian.Source{CacheDir: filepath.Join(dir, "cache")}, Agent: agent,
		Flatten: func(_ context.Context, r io.Reader, out *os.File) error {
			_, err := io.Copy(out, r)
			return err
		},
	}
}

// TestRealMirror pulls Debian's own kernels: real signature, real package.
func TestRealMirror(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	host := strings.Split(strings.TrimPrefix(debian.Mirror(os.DirFS("/")), "http://"), "/")[0]
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).Dial("tcp", net.JoinHostPort(host, "80"))
	if err != nil {
		t.Skipf("the Debian mirror can't be reached: %v", err)
	}
	conn.Close()
	for name, version := range map[string]string{"debian-12-cloud": "6.1.", "debian-13-cloud": "6.12.", "debian-13-uml": "6.12."} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := kernels(t)
			got, err := k.Pull(t.Context(), name, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(got.Version, version) || got.Name != name {
				t.Errorf("pulled %+v", got)
			}
			boot, err := k.Boot(t.Context(), got.ID)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "lib/modules", got.Version)
			untar(t, boot.Modules, dir)
			if got.Hypervisor == "uml" { // it has its own drivers built in, and its modules aren't signed
				inOrder(t, contents(t, boot.Initramfs), "the agent", "vsock", "vmw_vsock_virtio_transport", "overlay", "erofs")
				checkLayout(t, k, got.ID, "lib")
				checkModprobe(t, dir, ofUML)
				return
			}
			checkBootModules(t, boot.Initramfs)
			checkForced(t, k, got.ID)
			checkLayout(t, k, got.ID)
			checkModprobe(t, dir, ofVMs)
		})
	}
}

// contents returns what an initramfs holds: the agent's text, the early modules, a
// bar, the late ones.
func contents(t *testing.T, initramfs string) string {
	t.Helper()
	data, err := os.ReadFile(initramfs)
	if err != nil {
		t.Fatal(err)
	}
	size := func(at int) int {
		n, err := strconv.ParseInt(string(data[at:at+8]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	words := map[string][]string{}
	for at := 0; ; {
		bytesOf, nameOf := size(at+54), size(at+94)
		name := string(data[at+110 : at+110+nameOf-1])
		begin := (at + 110 + nameOf + 3) &^ 3
		body := data[begin : begin+bytesOf]
		at = (begin + bytesOf + 3) &^ 3
		if name == "TRAILER!!!" {
			break
		}
		dir, base := filepath.Split(name)
		if name == "init" {
			words["agent"] = []string{string(body)}
		} else if _, module, ok := strings.Cut(strings.TrimSuffix(base, ".ko"), "-"); ok {
			words[dir] = append(words[dir], module)
			if bytes.HasSuffix(body, []byte("~Module signature appended~\n")) {
				words[dir] = append(words[dir], "(signed)")
			}
		}
	}
	all := slices.Concat(words["agent"], words["lib/banger/early/"], []string{"|"}, words["lib/banger/late/"])
	return strings.Join(all, " ")
}

func checkBootModules(t *testing.T, initramfs string) {
	t.Helper()
	list := contents(t, initramfs)
	t.Logf("%s", list)
	if strings.Contains(list, "(signed)") {
		t.Error("a guest would have to check signatures")
	}
	early, late, _ := strings.Cut(list, "|")
	inOrder(t, early, "the agent", "virtio_mmio", "vsock", "vmw_vsock_virtio_transport", "overlay", "erofs")
	inOrder(t, late, "virtio_blk", "net_failover", "virtio_net", "virtio_rng", "virtio_balloon")
}

// checkForced has the kernel be one that loads signed modules only.
func checkForced(t *testing.T, k *kernel.Kernels, id string) {
	t.Helper()
	config := filepath.Join(k.Dir, id, "config")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "CONFIG_MODULE_SIG_FORCE=y\n"...)
	// Another agent has the initramfs made anew.
	if err := errors.Join(os.WriteFile(config, text, 0o600), os.WriteFile(k.Agent, []byte("a later agent"), 0o700)); err != nil {
		t.Fatal(err)
	}
	boot, err := k.Boot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if list := contents(t, boot.Initramfs); !strings.Contains(list, "virtio_blk (signed)") {
		t.Errorf("%q has lost its signatures", list)
	}
}

func inOrder(t *testing.T, text string, words ...string) {
	t.Helper()
	rest := " " + text + " "
	for _, w := range words {
		i := strings.Index(rest, " "+w+" ")
		if i < 0 {
			t.Errorf("%q comes too early or never in %q", w, text)
			continue
		}
		rest = rest[i+len(w)+1:]
	}
}

// checkLayout looks for what a pull and a boot may leave, and for nothing else but more.
func checkLayout(t *testing.T, k *kernel.Kernels, id string, more ...string) {
	t.Helper()
	for dir, allowed := range map[string][]string{
		k.From.CacheDir:              {},
		k.Dir:                        {id, ".lock-*", ".newest-*"},
		filepath.Join(k.Dir, id, ""): append(more, "vmlinux", "modules.erofs", "boot-modules", "config", "kernel.json", "initramfs-*"),
	} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
	entry:
		for _, e := range entries {
			for _, pattern := range allowed {
				if ok, _ := filepath.Match(pattern, e.Name()); ok {
					continue entry
				}
			}
			t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
}

func untar(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What modprobe is asked, and what has to be in its answer: names, aliases, symbols, what
// is built in.
var (
	ofVMs = map[string]string{
		"virtio-net":                 "net_failover.ko",
		"fs-xfs":                     "xfs.ko",
		"nft-expr-masq":              "nft_masq.ko",
		"virtio:d00000002v00001AF4":  "virtio_blk.ko",
		"symbol:net_failover_create": "net_failover.ko",
		"ext4":                       "builtin",
		"char-major-10-200":          "tun.ko",
		"net-pf-16-proto-12":         "nfnetlink.ko",
		"xt_MASQUERADE":              "x_tables.ko",
	}
	ofUML = map[string]string{
		"fs-xfs":             "builtin",
		"ext4":               "builtin",
		"char-major-10-200":  "tun.ko",
		"net-pf-16-proto-12": "nfnetlink.ko",
		"xt_MASQUERADE":      "x_tables.ko",
	}
)

// checkModprobe asks the real modprobe, with our tables, for what every autoload relies
// on.
func checkModprobe(t *testing.T, dir string, of map[string]string) {
	t.Helper()
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		t.Skip("modprobe is missing (package kmod)")
	}
	base := strings.TrimSuffix(dir, filepath.Join("lib/modules", filepath.Base(dir)))
	for question, answer := range of {
		cmd := exec.CommandContext(t.Context(), modprobe, "-d", base, "-S", filepath.Base(dir), "--show-depends", question)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(answer)) {
			t.Errorf("modprobe %s: %v, no %s in:\n%s", question, err, answer, out)
		}
	}
	if cache, err := os.UserCacheDir(); err == nil {
		keepForOthers(t, dir, filepath.Join(cache, "banger-test/modules"))
	}
}

// keepForOthers leaves a real tree where package kmod's tests look for one.
func keepForOthers(t *testing.T, dir, cache string) {
	t.Helper()
	to := filepath.Join(cache, filepath.Base(dir))
	if _, err := os.Stat(to); err == nil {
		return
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(cache, ".new-*")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.CopyFS(tmp, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, to); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}
