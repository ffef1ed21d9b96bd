package template_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/daemon/template"
	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/test/fake"
)

// bed is a store on a fake host.
type bed struct {
	*template.Store
	host *fake.Host
	ids  int
}

func newBed(t *testing.T, dir string, host *fake.Host, fate func(string) fake.Fate) *bed {
	t.Helper()
	b := &bed{host: host}
	b.Store = &template.Store{
		Dir: dir, Now: time.Now, Log: slog.New(slog.DiscardHandler), Quiet: time.Millisecond,
		Hypervisors: map[string]banger.Hypervisor{"fake": host.Live(fate).Hypervisor()},
		NewID:       func() string { b.ids++; return fmt.Sprintf("%012x", time.Now().UnixNano()&0xffffffff<<8|int64(b.ids)) },
	}
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func always(string) fake.Fate { return fake.Live }

func machine(t *testing.T, id string) banger.Machine {
	t.Helper()
	return banger.Machine{ID: id, Dir: t.TempDir(), RAMDir: t.TempDir(), VCPU: 1, MemoryMiB: 256, Net: banger.NetConfig{Mode: banger.NetUser}}
}

func (b *bed) make(t *testing.T, m banger.Machine) banger.Template {
	t.Helper()
	made, err := b.Make(t.Context(), template.Original{Hypervisor: "fake", Kernel: "k", Machine: m}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// left lists what is in the store's directory.
func left(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMakeAndRestore(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	m := machine(t, "a1")
	if _, _, err := b.Restore(t.Context(), "fake", m); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("without a template: %v", err)
	}
	made := b.make(t, m)
	if again := b.make(t, m); again.ID != made.ID || !again.Created.Equal(made.Created) {
		t.Errorf("made twice: %+v, then %+v", made, again)
	}
	if names := left(t, dir); len(names) != 1 || names[0] != made.ID {
		t.Errorf("the store holds %q", names)
	}
	if owned := b.host.Owned(); len(owned) != 0 {
		t.Errorf("the making left %v", owned)
	}
	h, id, err := b.Restore(t.Context(), "fake", m)
	if err != nil || id != made.ID || h.Empty() {
		t.Fatalf("Restore: %+v, %q, %v", h, id, err)
	}
	// Another daemon, which has to read the files first.
	other := newBed(t, dir, b.host, always)
	if _, id, err := other.Restore(t.Context(), "fake", machine(t, "a2")); err != nil || id != made.ID {
		t.Errorf("Restore by the next daemon: %q, %v", id, err)
	}
	bigger := machine(t, "a3")
	bigger.MemoryMiB *= 2
	if _, _, err := b.Restore(t.Context(), "fake", bigger); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("a machine of another kind: %v", err)
	}
	if got, err := b.Template(t.Context(), made.ID[:4]); err != nil || got.ID != made.ID || got.Kernel != made.Kernel {
		t.Errorf("asked for by its first digits it is %+v, %v", got, err)
	}
	if err := b.DeleteTemplate(t.Context(), made.ID[:4]); err != nil {
		t.Error(err)
	}
	if names := left(t, dir); len(names) != 0 {
		t.Errorf("after its deletion: %q", names)
	}
	if err := b.DeleteTemplate(t.Context(), made.ID); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("deleted twice: %v", err)
	}
}

// A driver may let a VMM that is another user read a template's files.
func TestReadByAnother(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	made := b.make(t, machine(t, "a1"))
	if err := os.Chmod(filepath.Join(dir, made.ID, "state"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a2", "a3"} {
		if _, _, err := b.Restore(t.Context(), "fake", machine(t, id)); err != nil {
			t.Error(err)
		}
	}
}

// Whatever is wrong with a template, it isn't used, and the next one is sound.
func TestDamage(t *testing.T) {
	write := func(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
	for name, spoil := range map[string]func(dir string) error{
		"truncated":   func(dir string) error { return os.Truncate(filepath.Join(dir, "state"), 3) },
		"longer":      func(dir string) error { return os.Truncate(filepath.Join(dir, "state"), 1<<20) },
		"other bytes": func(dir string) error { return write(filepath.Join(dir, "state"), "a frozen fake guess") },
		"missing":     func(dir string) error { return os.Remove(filepath.Join(dir, "state")) },
		"a link": func(dir string) error {
			return errors.Join(os.Rename(dir+"/state", dir+"/x"), os.Symlink("x", dir+"/state"))
		},
		"others' too":  func(dir string) error { return os.Chmod(filepath.Join(dir, "state"), 0o664) },
		"no manifest":  func(dir string) error { return write(filepath.Join(dir, "template.json"), "{}") },
		"torn":         func(dir string) error { return os.Truncate(filepath.Join(dir, "template.json"), 40) },
		"silent decay": decay,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := newBed(t, dir, fake.NewHost(), always)
			made := b.make(t, machine(t, "a1"))
			if err := spoil(filepath.Join(dir, made.ID)); err != nil {
				t.Fatal(err)
			}
			next := newBed(t, dir, b.host, always)
			h, _, err := next.Restore(t.Context(), "fake", machine(t, "a2"))
			if err == nil || !h.Empty() || !strings.Contains(err.Error(), made.ID) {
				t.Errorf("Restore: %+v, %v", h, err)
			}
			if names := left(t, dir); len(names) != 0 {
				t.Errorf("the damaged one is still there: %q", names)
			}
			next.make(t, machine(t, "a3"))
			if _, _, err := next.Restore(t.Context(), "fake", machine(t, "a4")); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// decay changes a byte and nothing that the file's inode says.
func decay(dir string) error {
	path := filepath.Join(dir, "state")
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("A"), 0)
	return errors.Join(err, f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime()))
}

// A template of another kind under this one's name is a stranger.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	m, other := machine(t, "a1"), machine(t, "a2")
	other.VCPU = 2
	mine := b.make(t, m)
	theirs := b.make(t, other)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, mine.ID)), os.Rename(filepath.Join(dir, theirs.ID), filepath.Join(dir, mine.ID))); err != nil {
		t.Fatal(err)
	}
	if h, _, err := b.Restore(t.Context(), "fake", m); err == nil || !h.Empty() {
		t.Errorf("Restore of a stranger: %+v, %v", h, err)
	}
}

// A maker that fails, or dies, at any step leaves nothing that the next Open
// doesn't take back, and never half a template.
func TestMakerFailsAndDies(t *testing.T) {
	var points []string
	b := newBed(t, t.TempDir(), fake.NewHost(), func(p string) fake.Fate { points = append(points, p); return fake.Live })
	b.make(t, machine(t, "a1"))
	if len(points) < 10 {
		t.Fatalf("only %q", points)
	}
	for i := range points {
		for _, fate := range []fake.Fate{fake.Fail, fake.Die} {
			dir, host, n := t.TempDir(), fake.NewHost(), 0
			one := newBed(t, dir, host, func(string) fake.Fate {
				if n++; n == i+1 {
					return fate
				}
				return fake.Live
			})
			done := make(chan struct{})
			go func() { // a dying one ends its goroutine
				defer close(done)
				_, _ = one.Make(context.Background(), template.Original{Hypervisor: "fake", Kernel: "k", Machine: machine(t, "a1")}, nil)
			}()
			<-done
			next := newBed(t, dir, host, always)
			if owned := host.Owned(); len(owned) != 0 {
				t.Errorf("%v at %s: still there: %v", fate, points[i], owned)
			}
			for _, name := range left(t, dir) {
				if strings.HasPrefix(name, ".") {
					t.Errorf("%v at %s: %s is still there", fate, points[i], name)
				}
			}
			next.make(t, machine(t, "a2"))
			if _, _, err := next.Restore(t.Context(), "fake", machine(t, "a3")); err != nil {
				t.Errorf("%v at %s: afterwards: %v", fate, points[i], err)
			}
		}
	}
}

func TestBounded(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	b.Bytes = 1 // not even one fits, so each newest stays alone
	for n := range 3 {
		m := machine(t, "a1")
		m.VCPU = n + 1
		b.make(t, m)
		if names := left(t, dir); len(names) != 1 {
			t.Errorf("the store holds %q", names)
		}
	}
	b.Bytes = 1 << 30
	m := machine(t, "a1")
	m.VCPU = 3
	m.Cmdline = "another kernel's, say" // the same VMs, another kind
	b.make(t, m)
	if names := left(t, dir); len(names) != 1 {
		t.Errorf("what was superseded is still there: %q", names)
	}
}

// A guest that ends in place of freezing is said to have ended.
func TestGuestEnds(t *testing.T) {
	host := fake.NewHost()
	host.Agent = func(g *fake.Guest) { g.Poweroff(); _ = g.Close() }
	dir := t.TempDir()
	b := newBed(t, dir, host, always)
	b.Freeze = time.Second // until then it is asked again: it might be late
	_, err := b.Make(t.Context(), template.Original{Hypervisor: "fake", Kernel: "k", Machine: machine(t, "a1")}, nil)
	if err == nil || !strings.Contains(err.Error(), "it ended: ") {
		t.Error(err)
	}
	if names := left(t, dir); len(names) > 0 || len(host.Owned()) > 0 {
		t.Errorf("left: %q, %v", names, host.Owned())
	}
}

// An image whose command fails is no template, and its last words are told.
func TestCommandFails(t *testing.T) {
	host := fake.NewHost()
	s := &agent.Server{
		Version: "fake", Sessions: &session.Table{}, InitState: func() string { return "running" },
		Configure: func(context.Context, guest.Identity) (guest.Ready, error) { return guest.Ready{Agent: "fake"}, nil },
	}
	host.Agent = func(g *fake.Guest) { _ = s.Serve(&once{conn: g}) }
	dir := t.TempDir()
	b := newBed(t, dir, host, always)
	m := machine(t, "a1")
	m.Drives = []banger.Drive{{Serial: "disk"}}
	_, err := b.Make(t.Context(), template.Original{Hypervisor: "fake", Kernel: "k", Machine: m, Image: &template.Image{
		Name: "debian", ID: "i", DiskMiB: 64, Disks: host.Live(always).Disks(), After: "echo out of order; exit 3",
	}}, nil)
	var e *banger.Error
	if !errors.As(err, &e) || e.Code != banger.CodeInvalid || !strings.Contains(e.Error(), "ended with status 3") || !strings.Contains(e.Hint, "out of order") {
		t.Errorf("%v, %+v", err, e)
	}
	if names := left(t, dir); len(names) > 0 {
		t.Errorf("left: %q", names)
	}
}

// once is a listener with one connection to give.
type once struct{ conn net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, io.EOF
	}
	c := o.conn
	o.conn = nil
	return c, nil
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.UnixAddr{} }

// A reference that several share names none of them.
func TestAmbiguous(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	id := b.make(t, machine(t, "a1")).ID
	other := id[:4] + "00000000"
	if err := os.CopyFS(filepath.Join(dir, other), os.DirFS(filepath.Join(dir, id))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, other, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], bytes.ReplaceAll(data, []byte(id), []byte(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteTemplate(t.Context(), id[:4]); banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(err.Error(), "names 2 templates") {
		t.Error(err)
	}
	if err := b.DeleteTemplate(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// What has no template says why it is booted, and why none is made.
func TestNoTemplate(t *testing.T) {
	b := newBed(t, t.TempDir(), fake.NewHost(), always)
	bridged := machine(t, "a1")
	bridged.Net.Mode = banger.NetBridge
	plain := struct{ banger.Hypervisor }{b.Hypervisors["fake"]} // can do no more than each must
	b.Hypervisors["plain"] = plain
	for want, c := range map[string]struct {
		hypervisor string
		m          banger.Machine
		code       banger.Code
	}{
		"on a network of the host":             {"fake", bridged, banger.CodeInvalid},
		`hypervisor "plain" can't be restored`: {"plain", machine(t, "a2"), banger.CodeUnavailable},
	} {
		_, _, restored := b.Restore(t.Context(), c.hypervisor, c.m)
		_, _, image := b.Image(t.Context(), c.hypervisor, "debian", 1024, c.m)
		_, made := b.Make(t.Context(), template.Original{Hypervisor: c.hypervisor, Machine: c.m}, nil)
		for _, err := range []error{restored, image, made} {
			if banger.CodeOf(err) != c.code || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
	b.Off = true
	_, _, restored := b.Restore(t.Context(), "fake", machine(t, "a3"))
	_, _, image := b.Image(t.Context(), "fake", "debian", 1024, machine(t, "a4"))
	for _, err := range []error{restored, image} {
		if err == nil || !strings.Contains(err.Error(), "warm starts are off in config.toml") {
			t.Error(err)
		}
	}
}

// What is wanted is made when the host is idle, and not before.
func TestWanted(t *testing.T) {
	b := newBed(t, t.TempDir(), fake.NewHost(), always)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked, idle := make(chan bool), make(chan bool)
	go b.Run(ctx, func() bool {
		select {
		case asked <- true:
			return <-idle
		case <-ctx.Done():
			return false
		}
	})
	b.Want(ctx, "fake", "k", machine(t, "a1"))
	for range 3 {
		<-asked
		idle <- false
		if all, _ := b.Templates(ctx); len(all) != 0 {
			t.Fatal("a template was made of a busy host")
		}
	}
	for made := false; !made; {
		select {
		case <-asked:
			idle <- true
		default:
		}
		all, err := b.Templates(ctx)
		if err != nil || ctx.Err() != nil {
			t.Fatal(err)
		}
		made = len(all) == 1
	}
}

// A guest that didn't make everything new is no VM.
func TestRenewed(t *testing.T) {
	b := newBed(t, t.TempDir(), fake.NewHost(), always)
	all := guest.Renewals()
	id := guest.Identity{Hostname: "h", MachineID: "m", Net: &guest.NetIdentity{MAC: "02:aa:00:00:00:01"}}
	asked := time.Now()
	if err := b.Renewed("", id, asked, guest.Ready{Renewed: all, BootID: "one", Seen: fake.Seen(id)}); err != nil {
		t.Errorf("a guest that did: %v", err)
	}
	for i, name := range all {
		without := append(append([]string{}, all[:i]...), all[i+1:]...)
		if err := b.Renewed("", id, asked, guest.Ready{Renewed: without, BootID: "boot of " + name, Seen: fake.Seen(id)}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*guest.Seen){
		guest.RenewClock:     func(s *guest.Seen) { s.Time = s.Time.Add(-time.Hour) },
		guest.RenewHostname:  func(s *guest.Seen) { s.Hostname = "(none)" },
		guest.RenewMachineID: func(s *guest.Seen) { s.MachineID = "" },
		guest.RenewNetwork:   func(s *guest.Seen) { s.MAC = "02:00:00:00:00:01" },
	} {
		seen := fake.Seen(id)
		spoil(&seen)
		if err := b.Renewed("", id, asked, guest.Ready{Renewed: all, BootID: "lie about " + name, Seen: seen}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a guest that lies about %s: %v", name, err)
		}
	}
	// An answer may be old when it is heard, not so the clock in it.
	late := fake.Seen(id)
	late.Time = late.Time.Add(-time.Minute)
	if err := b.Renewed("", id, asked.Add(-time.Minute), guest.Ready{Renewed: all, BootID: "late", Seen: late}); err != nil {
		t.Errorf("a guest that was heard late: %v", err)
	}
	ahead := fake.Seen(id)
	ahead.Time = ahead.Time.Add(time.Hour)
	if err := b.Renewed("", id, asked, guest.Ready{Renewed: all, BootID: "ahead", Seen: ahead}); err == nil {
		t.Error("a clock an hour ahead passed")
	}
	if err := b.Renewed("", id, asked, guest.Ready{Renewed: all, BootID: "one", Seen: fake.Seen(id)}); err == nil || !strings.Contains(err.Error(), guest.RenewRandom) {
		t.Errorf("a boot id that another has: %v", err)
	}
	if err := b.Renewed("", id, asked, guest.Ready{Renewed: all, Seen: fake.Seen(id)}); err == nil {
		t.Error("a guest without a boot id passed")
	}
}

// Who is killed in a restoring says nothing of its template; whoever ends otherwise does.
func TestKilledIsNoFault(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, fake.NewHost(), always)
	made := b.make(t, machine(t, "a1"))
	for _, c := range []struct {
		why  error
		left int
	}{
		{fmt.Errorf("start: %w", banger.Exit{Kind: banger.ExitKilled}.Excuse(errors.New("QEMU ended"))), 1},
		{banger.Exit{Kind: banger.ExitUnknown}.Excuse(errors.New("QEMU ended")), 1},
		{banger.Exit{Kind: banger.ExitFailed}.Excuse(errors.New("QEMU ended")), 0},
	} {
		err := b.Reject(made.ID, c.why)
		if names := left(t, dir); len(names) != c.left || !errors.Is(err, c.why) || !strings.Contains(err.Error(), made.ID) {
			t.Errorf("after %v: %q, %v", c.why, names, err)
		}
	}
	// Another VM's fault took the template away under this one.
	if err := b.Reject(made.ID, fs.ErrNotExist); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "removed meanwhile") {
		t.Errorf("of a template that is no more: %v", err)
	}
}

// stranger is a hypervisor that can't remove what a machine of another one has.
type stranger struct {
	banger.Hypervisor
	host *fake.Host
}

func (s stranger) Kill(context.Context, banger.Machine, banger.Handles) (banger.Handles, error) {
	if len(s.host.Owned()) > 0 {
		return banger.Handles{}, errors.New("it is busy")
	}
	return banger.Handles{}, nil
}

// What a dead maker left is removed, whichever of the hypervisors is asked first.
func TestTakenBackByOthers(t *testing.T) {
	alive := 0
	for range 20 {
		dir, host, n := t.TempDir(), fake.NewHost(), 0
		one := newBed(t, dir, host, func(string) fake.Fate {
			if n++; n == 10 {
				return fake.Die
			}
			return fake.Live
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = one.Make(context.Background(), template.Original{Hypervisor: "fake", Kernel: "k", Machine: machine(t, "a1")}, nil)
		}()
		<-done
		alive += len(host.Owned())
		next := &template.Store{
			Dir: dir, Now: time.Now, Log: slog.New(slog.DiscardHandler), NewID: one.NewID,
			Hypervisors: map[string]banger.Hypervisor{"fake": host.Live(always).Hypervisor(), "other": stranger{host: host}},
		}
		if err := next.Open(t.Context()); err != nil || len(host.Owned()) > 0 || len(left(t, dir)) > 0 {
			t.Fatalf("%v; left: %q, %q", err, host.Owned(), left(t, dir))
		}
	}
	if alive == 0 {
		t.Fatal("no maker left a machine")
	}
}
