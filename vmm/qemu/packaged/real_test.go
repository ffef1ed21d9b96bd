package packaged_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/fetch/debian"
	"banger/vmm/qemu/packaged"
)

// What the archive has today runs: by its own loader, libraries and firmware, in a directory of
// any name.
func TestReal(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches from the archive")
	}
	dir := filepath.Join(t.TempDir(), "a directory, of spaces")
	i := packaged.Installer{Dir: dir, From: debian.Source{CacheDir: filepath.Join(t.TempDir(), "downloads")}}
	in, err := i.Install(t.Context(), func(e banger.Event) {
		if e.Done == e.Total {
			t.Log(e.Message, e.Total)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		argv := append(in.Command(), args...)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"LD_DEBUG=files"}
		var loaded strings.Builder
		cmd.Stderr = &loaded
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, loaded.String())
		}
		if !strings.Contains(loaded.String(), "calling init: "+filepath.Join(filepath.Dir(in.Path()), "lib", "libgcc_s.so.1")) {
			t.Error("libgcc_s would be loaded late, when an update may have removed it")
		}
		for line := range strings.Lines(loaded.String()) {
			_, path, ok := strings.Cut(line, "calling init: ")
			if ok && !strings.HasPrefix(path, dir) {
				t.Errorf("a library of the host was loaded: %s", path)
			}
		}
		return string(out)
	}
	if out := run("-version"); !strings.HasPrefix(out, "QEMU emulator version "+in.Short()) {
		t.Errorf("version %s (%s): %s", in.Version, in.Short(), out)
	}
	if out := run("-sandbox", "on", "-M", "help"); !strings.Contains(out, "\nmicrovm ") {
		t.Errorf("no microvm: %s", out)
	}
	var bytes int64
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
		}
		return err
	})
	libs, _ := os.ReadDir(filepath.Join(filepath.Dir(in.Path()), "lib"))
	t.Logf("QEMU %s: %d packages, %d libraries, %d MB", in.Version, len(in.Packages), len(libs), bytes>>20)
}
