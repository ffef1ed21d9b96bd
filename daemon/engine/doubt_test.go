package engine_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/daemon/engine"
	"banger/guest"
	"banger/test/fake"
)

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// What can't be undone is tried again, at pauses that grow, and said once: in the
// log with what a person can do, and in the VM's reason.
func TestUndoThatCannotWork(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		log := &buffer{}
		w.log, w.defaults.Retry = log, 5*time.Second
		d := w.open(nil)
		vm := d.make(t, banger.Spec{Name: "it"})
		d.kill()
		w.plain = true
		var mu sync.Mutex
		tries := 0
		d = w.open(func(_, point string) fake.Fate {
			mu.Lock()
			defer mu.Unlock()
			if point == "before kill vmm" {
				tries++
			}
			return fake.Live
		})
		wantCode(t, d.DeleteVM(t.Context(), "it"), banger.CodeUnavailable)
		time.Sleep(time.Hour)
		mu.Lock()
		if tries < 10 || tries > 25 {
			t.Errorf("%d tries in an hour", tries)
		}
		mu.Unlock()
		if got, err := d.VM(t.Context(), vm.ID); err != nil || !strings.Contains(got.Reason, "undo network: "+vm.Held.Tap+" can't be removed by this daemon") {
			t.Errorf("%+v, %v", got, err)
		}
		if s := log.String(); strings.Count(s, "can't be removed by this daemon") != 1 || !strings.Contains(s, "run it as root") {
			t.Errorf("the log:\n%s", s)
		}
		d.kill()
		w.plain = false
		d = w.open(nil)
		w.settled(d)
		report(t, w.check(d), "by a daemon that may")
		d.kill()
	})
}

// A rename that was recorded though its daemon was told otherwise gave a name
// away. That somebody has it since keeps nobody from the VM.
func TestRenameInDoubt(t *testing.T) {
	for _, store := range []func(testing.TB) *world{newWorld, onDisk} {
		w := store(t)
		w.defaults.Retry = time.Hour
		strike := false
		d := w.open(func(_, point string) fake.Fate {
			if strike && point == "after commit stopped" {
				strike = false
				return fake.Fail
			}
			return fake.Live
		})
		must(t, create(bridged, false)(t.Context(), d))
		vm, err := d.VM(t.Context(), "it")
		must(t, err)
		strike = true
		_, err = d.SetVM(t.Context(), "it", banger.Change{Name: "that"})
		wantCode(t, err, banger.CodeInternal)
		_, err = d.CreateVM(t.Context(), banger.Spec{Name: "it"}, false, nil)
		must(t, err)
		if _, err = d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil); err != nil {
			t.Error(err)
		}
		if got, err := d.VM(t.Context(), "that"); err != nil || got.ID != vm.ID {
			t.Errorf("%+v, %v", got, err)
		}
		report(t, w.check(d), "renamed")
		must(t, d.DeleteVM(t.Context(), "that"))
		d.kill()
	}
}

// That files went is lasting before it is acknowledged.
func TestRemovalIsSynced(t *testing.T) {
	w := newWorld(t)
	s := &script{at: -1}
	d := w.open(s.decide)
	defer d.kill()
	must(t, create(bridged, false)(t.Context(), d))
	s.arm(-1)
	must(t, d.DeleteVM(t.Context(), "it"))
	order := strings.Join(s.points, ", ")
	if !strings.Contains(order, "after rmdir, before sync directory, after sync directory, before commit gone") {
		t.Errorf("in this order: %s", order)
	}
}

// noRoom clones no disk whole.
type noRoom struct{ banger.Disks }

func (d noRoom) Clone(ctx context.Context, dir, _ string) (string, error) {
	if _, err := d.Create(ctx, dir, 64); err != nil { // some of it
		return "", err
	}
	return "", banger.Errorf(banger.CodeUnavailable, "the template is gone")
}

// imageless has an image template whose disk can't be had.
type imageless struct{ engine.Templates }

func (imageless) Image(context.Context, string, string, int, banger.Machine) (string, string, error) {
	return "aaaaaaaaaaaa", "/nowhere", nil
}

func (imageless) Restore(context.Context, string, banger.Machine) (banger.Handles, string, error) {
	return banger.Handles{}, "", banger.Errorf(banger.CodeNotFound, "no template")
}

func (imageless) Want(context.Context, string, string, banger.Machine) {}

func (imageless) Renewed(string, guest.Identity, time.Time, guest.Ready) error { return nil }

// A disk that can't be copied is made.
func TestCloneThatFails(t *testing.T) {
	w := newWorld(t)
	w.sabotage.disks = func(_ *world, d banger.Disks) banger.Disks { return noRoom{d} }
	d := w.open(nil)
	defer d.kill()
	d.Templates = imageless{}
	vm := d.make(t, banger.Spec{Name: "it"})
	if vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(w.host.String(), ", 1024 MiB") {
		t.Errorf("%+v\n%v", vm.Launch, w.host)
	}
	report(t, w.check(d), "made")
}
