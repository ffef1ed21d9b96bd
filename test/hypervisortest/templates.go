package hypervisortest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/guest"
)

// TemplateBed is what the suite of banger.Capturer stands on.
type TemplateBed struct {
	Bed
	// Another returns a machine of the same kind, with drives of its own.
	Another func(t *testing.T) banger.Machine
	// OpenFiles: a VMM that is another user reads the template's files, from which
	// their directory keeps all others.
	OpenFiles bool
}

// RunTemplates holds a driver that is a banger.Capturer to that contract. open is
// as for Run; the machines of Another too are killed when the test ends.
func RunTemplates(t *testing.T, open func(t *testing.T) TemplateBed) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, TemplateBed)
	}{
		{"CaptureRestore", testCaptureRestore},
		{"RestoreLeavesNothing", testRestoreLeavesNothing},
		{"CaptureOfNothing", testCaptureOfNothing},
		{"Kind", testKind},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

func (b TemplateBed) capturer(t *testing.T) banger.Capturer {
	t.Helper()
	c, ok := b.Hypervisor.(banger.Capturer)
	if !ok {
		t.Fatal("the driver is no banger.Capturer")
	}
	return c
}

// capture makes a template of the bed's machine.
func (b TemplateBed) capture(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(b.Machine.RAMDir, "template")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := b.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return b.Hypervisor.Dial(ctx, b.Machine) }}
	if err := c.Freeze(ctx); err != nil {
		t.Fatalf("freeze: %v\n%s", err, b.console())
	}
	if err := b.capturer(t).Capture(ctx, b.Machine, h, dir); err != nil {
		t.Fatalf("Capture: %v\n%s", err, b.console())
	}
	for _, p := range []banger.Process{h.VMM, h.Shim} {
		if b.Host.Alive(p) {
			t.Errorf("process %+v outlived Capture", p)
		}
	}
	for _, d := range b.Machine.Drives {
		if !d.ReadOnly {
			wantOurs(t, d.Path)
		}
	}
	return dir
}

// wantOurs checks that nobody else can write to a file.
func wantOurs(t *testing.T, path string) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Error(&fs.PathError{Op: "stat", Path: path, Err: err})
	} else if int(st.Uid) != os.Getuid() || st.Mode&0o022 != 0 {
		t.Errorf("%s has the owner %d and the mode %o after Capture", path, st.Uid, st.Mode)
	}
}

// sums digests the files of a template.
func (b TemplateBed) sums(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		wantOurs(t, filepath.Join(dir, f.Name()))
		if info.Mode().Perm()&0o077 != 0 && !b.OpenFiles {
			t.Errorf("%s is open to others: %v", f.Name(), info.Mode())
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name()] = sha256.Sum256(data)
	}
	return out
}

func testCaptureRestore(t *testing.T, b TemplateBed) {
	dir := b.capture(t)
	before := b.sums(t, dir)
	if len(before) == 0 {
		t.Fatal("Capture wrote nothing")
	}
	var beds []TemplateBed
	var held []banger.Handles
	for range 2 { // side by side
		one := b
		one.Machine = b.Another(t)
		h, err := b.capturer(t).Restore(t.Context(), one.Machine, dir)
		if err != nil {
			t.Fatalf("Restore: %v\n%s", err, one.console())
		}
		one.wantAlive(t, h)
		beds, held = append(beds, one), append(held, h)
	}
	for i, one := range beds {
		one.uptime(t)
		got, alive, err := b.Hypervisor.Adopt(t.Context(), one.Machine, banger.Handles{})
		if err != nil || !alive || got != held[i] {
			t.Errorf("Adopt of a restored machine: %+v, alive %v, %v; want %+v", got, alive, err, held[i])
		}
	}
	for i, one := range beds {
		one.kill(t, held[i])
	}
	for name, sum := range b.sums(t, dir) {
		if before[name] != sum {
			t.Errorf("restored machines changed the template's %s", name)
		}
	}
}

// A template that isn't whole starts nothing and leaves nothing.
func testRestoreLeavesNothing(t *testing.T, b TemplateBed) {
	dir := b.capture(t)
	one := b
	one.Machine = b.Another(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.capturer(t).Restore(ctx, one.Machine, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context ended", err)
	}
	one.wantNothing(t)
	for name := range b.sums(t, dir) {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, spoil := range map[string]func() error{
			"half of":   func() error { return os.Truncate(path, int64(len(whole)/2)) },
			"an empty":  func() error { return os.Truncate(path, 0) },
			"without a": func() error { return os.Remove(path) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			h, err := b.capturer(t).Restore(ctx, one.Machine, dir)
			cancel()
			if err == nil || !h.Empty() {
				t.Errorf("Restore from %s %s: %+v, %v", what, name, h, err)
			}
			one.wantNothing(t)
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	h, err := b.capturer(t).Restore(t.Context(), one.Machine, dir)
	if err != nil {
		t.Fatalf("Restore after all was mended: %v", err)
	}
	one.uptime(t)
	one.kill(t, h)
}

func testCaptureOfNothing(t *testing.T, b TemplateBed) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.capturer(t).Capture(ctx, b.Machine, banger.Handles{}, dir); err == nil {
		t.Error("Capture of what never ran succeeded")
	}
	b.kill(t, banger.Handles{})
}

func testKind(t *testing.T, b TemplateBed) {
	kind := func(m banger.Machine) string {
		t.Helper()
		k, err := b.capturer(t).Kind(t.Context(), m)
		if err != nil || len(k) < 12 || len(bytes.Trim([]byte(k), "0123456789abcdef")) > 0 {
			t.Fatalf("Kind: %q, %v", k, err)
		}
		return k
	}
	first := kind(b.Machine)
	if again := kind(b.Another(t)); again != first {
		t.Errorf("a machine that differs in its drives and names only is of kind %s, not %s", again, first)
	}
	for what, change := range map[string]func(*banger.Machine){
		"CPUs":         func(m *banger.Machine) { m.VCPU++ },
		"memory":       func(m *banger.Machine) { m.MemoryMiB++ },
		"command line": func(m *banger.Machine) { m.Cmdline += " more" },
		"network":      func(m *banger.Machine) { m.Net = banger.NetConfig{Mode: banger.NetNone} },
		"drives": func(m *banger.Machine) {
			m.Drives = append(m.Drives[:len(m.Drives):len(m.Drives)], banger.Drive{Serial: "x", Path: "/x"})
		},
	} {
		m := b.Machine
		change(&m)
		if kind(m) == first {
			t.Errorf("other %s make no other kind", what)
		}
	}
}
