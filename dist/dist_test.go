package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil { // it is run where the sources are
		panic(err)
	}
	os.Exit(m.Run())
}

// The references in the tree are what the code says.
func TestReferences(t *testing.T) {
	for path, make := range references {
		want, err := make()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run `make docs` (%v)", path, err)
		}
		if n := bytes.Count(want, []byte("\n## banger")) + bytes.Count(want, []byte("operationId")) + bytes.Count(want, []byte("\n| `banger ")); n < 30 {
			t.Errorf("%s has %d commands", path, n)
		}
	}
}

// unpack puts a tarball, without its first directory, into dir.
func unpack(t *testing.T, tarball, dir string) {
	t.Helper()
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(strings.TrimSuffix(h.Name, "/"), "/")
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s is owned by %d:%d", h.Name, h.Uid, h.Gid)
		}
		path := filepath.Join(dir, name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, fs.FileMode(h.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A release is installed by unpacking it, and works.
func TestRelease(t *testing.T) {
	out, home := t.TempDir(), t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if err := run("v9.9.9", out); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(out, "banger-v9.9.9-linux-amd64.tar.gz")
	data, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}
	if sums, err := os.ReadFile(filepath.Join(out, "SHA256SUMS")); err != nil || string(sums) != fmt.Sprintf("%x  %s\n", sha256.Sum256(data), filepath.Base(tarball)) {
		t.Errorf("SHA256SUMS says %s (%v)", sums, err)
	}
	for _, name := range []string{".bashrc", ".config/other/settings", ".cache/other/x", ".local/state/other"} {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, home)
	prefix := filepath.Join(home, ".local")
	unpack(t, tarball, prefix)
	listed, err := os.ReadFile(filepath.Join(prefix, manifest))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	if err := filepath.WalkDir(prefix, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.Contains(path, "/state/") {
			rel, _ := filepath.Rel(prefix, path)
			found = append(found, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(listed)) {
		if _, err := os.Stat(filepath.Join(prefix, name)); err != nil {
			t.Errorf("the manifest lists what isn't there: %v", err)
		}
	}
	if n := len(strings.Fields(string(listed))); n != len(found) {
		t.Errorf("the manifest lists %d files, there are %d", n, len(found))
	}
	for _, name := range []string{"bin/bangerd", "share/man/man1/banger-vm-run.1", "share/systemd/user/banger.service",
		"share/bash-completion/completions/banger", "share/zsh/site-functions/_banger", "share/fish/vendor_completions.d/banger.fish"} {
		if fi, err := os.Stat(filepath.Join(prefix, name)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"banger", "bangerd", "banger-shim", "banger-jail", "banger-agent"} {
		exe, err := elf.Open(filepath.Join(prefix, "bin", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range exe.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s isn't static", name)
			}
		}
		_ = exe.Close()
	}
	banger := func(args ...string) string {
		cmd := exec.Command(filepath.Join(prefix, "bin/banger"), args...)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("banger %s: %v: %s", args, err, out)
		}
		return string(out)
	}
	if v := banger("version"); !strings.Contains(v, "banger v9.9.9") {
		t.Errorf("it says %s", v)
	}
	banger("ps") // starts the daemon
	if st := banger("daemon", "status"); !strings.Contains(st, "v9.9.9") || !strings.Contains(st, home) {
		t.Errorf("it says %s", st)
	}
	settings := filepath.Join(home, ".config/banger/config.toml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(settings), 0o755), os.WriteFile(settings, []byte("vcpu = 1\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	banger("daemon", "restart")
	banger("uninstall", "--purge", "--force")
	if d := cmp.Diff(before, listing(t, home)); d != "" {
		t.Errorf("the home directory isn't as it was before (-before +after): %s", d)
	}
}

// listing is every path below a directory with its mode and content.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var data []byte
		if info.Mode().IsRegular() {
			data, err = os.ReadFile(path)
		}
		all[path] = fmt.Sprint(info.Mode(), " ", string(data))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
