package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/test/fake"
)

// mute are guests that leave a request hanging while they are told to, until they
// are ended.
type mute struct {
	to    atomic.Value // guest.Op
	asked chan string  // VM ids
}

func deafened(w *world) *mute {
	d := &mute{asked: make(chan string, 1000)}
	d.to.Store("")
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool {
			if string(req.Op) != d.to.Load() {
				return true
			}
			d.asked <- g.ID()
			<-g.Ended()
			return false
		})
		g.Close()
	}
	return d
}

// slow has guests take the request to power off, and then their time.
func slow(w *world) {
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool {
			if req.Op != guest.OpShutdown {
				return true
			}
			if raw, err := guest.AppendResponse(nil, req.Max, nil, nil); err == nil {
				_, _ = g.Write(raw)
			}
			return false
		})
		g.Close()
	}
}

// endings are how a daemon may end with something under way.
var endings = map[string]func(*daemon){
	"killed": (*daemon).kill,
	"closed": func(d *daemon) { d.Close() },
}

// A restart, a user's or the guest's own, whose new boot a daemon doesn't live to
// see goes on in the next one, however often that happens, though not for ever.
func TestRestartOutlivesDaemons(t *testing.T) {
	for how, end := range endings {
		for who, restart := range map[string]func(*daemon, banger.VM){
			"user": func(d *daemon, vm banger.VM) {
				_, _ = d.RestartVM(context.Background(), vm.ID, banger.StopOptions{}, nil)
			},
			"guest": func(d *daemon, vm banger.VM) { d.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitReboot}) },
		} {
			for cuts, state := range map[int]banger.State{1: banger.Running, 3: banger.Running, 9: banger.Stopped} {
				t.Run(fmt.Sprintf("%s, %s, %d", who, how, cuts), func(t *testing.T) {
					inBubble(t, func(t *testing.T, w *world) {
						w.defaults.Boot = time.Hour
						guests := deafened(w)
						d := w.open(nil)
						vm := d.make(t, banger.Spec{Name: "it"})
						guests.to.Store(string(guest.OpConfigure))
						go restart(d, vm)
						for range cuts {
							select {
							case <-guests.asked:
							case <-time.After(time.Minute): // nobody tries any more
							}
							end(d)
							d = w.open(nil)
						}
						end(d)
						guests.to.Store("")
						d = w.open(nil)
						w.settled(d)
						got, err := d.VM(t.Context(), "it")
						if err != nil || got.State != state || state == banger.Running && got.Exit != nil {
							t.Errorf("%+v, %v", got, err)
						}
						if state == banger.Stopped && !strings.Contains(got.Reason, "was cut short 5 times") {
							t.Errorf("the reason is %q", got.Reason)
						}
						report(t, w.check(d), "in the end")
						d.kill()
					})
				})
			}
		}
	}
}

// A guest has the time to shut down that it was promised, whatever becomes of
// daemons meanwhile, and no more.
func TestStopOutlivesDaemons(t *testing.T) {
	for how, end := range endings {
		for shuts, kind := range map[time.Duration]banger.ExitKind{4 * time.Minute: banger.ExitPoweroff, time.Hour: banger.ExitKilled} {
			t.Run(fmt.Sprintf("%s, %s", how, kind), func(t *testing.T) {
				inBubble(t, func(t *testing.T, w *world) {
					slow(w)
					d := w.open(nil)
					vm := d.make(t, banger.Spec{Name: "it"})
					began := time.Now()
					go func() {
						select {
						case <-time.After(shuts):
							w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitPoweroff})
						case <-t.Context().Done():
						}
					}()
					go func() { _, _ = d.StopVM(context.Background(), "it", banger.StopOptions{Timeout: 5 * time.Minute}) }()
					for range 3 {
						time.Sleep(time.Minute)
						end(d)
						d = w.open(nil)
						if got, _ := d.VM(t.Context(), "it"); got.State != banger.Stopping || !w.host.Is(vm.Held.VMM) {
							t.Fatalf("after %s: %+v", time.Since(began), got)
						}
					}
					got, _ := d.VM(t.Context(), "it")
					for ; got.State != banger.Stopped && time.Since(began) < time.Hour; got, _ = d.VM(t.Context(), "it") {
						time.Sleep(time.Second)
					}
					if got.Exit == nil || got.Exit.Kind != kind {
						t.Errorf("%+v", got)
					}
					if took := time.Since(began); took > 5*time.Minute+5*time.Second {
						t.Errorf("it took %s", took)
					}
					report(t, w.check(d), "stopped")
					d.kill()
				})
			})
		}
	}
}

// A guest that isn't to be asked isn't asked by the next daemon either.
func TestForceOutlivesDaemons(t *testing.T) {
	w := newWorld(t)
	asked := 0
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool {
			if req.Op == guest.OpShutdown {
				asked++
			}
			return true
		})
	}
	d := w.open(func(_, point string) fake.Fate {
		if point == "after commit stopping stop agent" {
			return fake.Die
		}
		return fake.Live
	})
	d.make(t, banger.Spec{Name: "it"})
	_ = d.do(func() error {
		_, err := d.StopVM(context.Background(), "it", banger.StopOptions{Force: true})
		return err
	})
	d.kill()
	d = w.open(nil)
	defer d.kill()
	w.settled(d)
	if got, err := d.VM(t.Context(), "it"); err != nil || got.State != banger.Stopped || got.Exit.Detail != "by request" || asked != 0 {
		t.Errorf("asked %d times: %+v, %v", asked, got, err)
	}
}

// numb doesn't know at first how a machine ended.
type numb struct {
	banger.Hypervisor
	left *atomic.Int32
}

func (h numb) Wait(ctx context.Context, m banger.Machine, held banger.Handles) (banger.Exit, error) {
	if h.left.Add(-1) >= 0 {
		return banger.Exit{}, errors.New("the shim doesn't answer")
	}
	return h.Hypervisor.Wait(ctx, m, held)
}

// That a machine's end can't be waited for is no end of the time it has.
func TestWaitThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var left atomic.Int32
		w.sabotage.host = func(_ *world, h banger.Hypervisor) banger.Hypervisor { return numb{h, &left} }
		d := w.open(nil)
		vm := d.make(t, banger.Spec{Name: "it"})
		w.host.Agent = func(g *fake.Guest) {
			g.Answer(func(guest.Request) bool { return true })
			g.Close()
		}
		left.Store(3)
		got, err := d.StopVM(t.Context(), vm.ID, banger.StopOptions{})
		if err != nil || got.Exit == nil || got.Exit.Kind != banger.ExitPoweroff {
			t.Errorf("%+v, %v", got, err)
		}
		d.kill()
	})
}

// That a machine's end can't be waited for says nothing of it: it is found again,
// and what went wrong is forgotten.
func TestWatchThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var left atomic.Int32
		w.sabotage.host = func(_ *world, h banger.Hypervisor) banger.Hypervisor { return numb{h, &left} }
		d := w.open(nil)
		must(t, create(bridged, false)(t.Context(), d))
		left.Store(2)
		must(t, start(t.Context(), d))
		must(t, d.until("it", func(vm banger.VM, _ error) bool { return vm.Reason != "" }))
		must(t, d.until("it", func(vm banger.VM, _ error) bool { return vm.State == banger.Running && vm.Reason == "" }))
		report(t, w.check(d), "found again")
		vm, err := d.VM(t.Context(), "it")
		must(t, err)
		w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitPoweroff})
		must(t, d.until("it", func(vm banger.VM, _ error) bool { return vm.State == banger.Stopped }))
	})
}

// Whoever comes to an engine that has ended is told so, and nothing is begun.
func TestClosed(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{Name: "it"})
	d.Close()
	for what, call := range map[string]func() error{
		"create": func() error { return create(bridged, true)(t.Context(), d) },
		"stop": func() error {
			_, err := d.StopVM(t.Context(), "it", banger.StopOptions{})
			return err
		},
		"restart": func() error {
			_, err := d.RestartVM(t.Context(), "it", banger.StopOptions{}, nil)
			return err
		},
		"kill": func() error {
			_, err := d.KillVM(t.Context(), "it", "CONT")
			return err
		},
		"delete": func() error { return d.DeleteVM(t.Context(), "it") },
	} {
		err := call()
		if what == "kill" {
			must(t, err)
			continue
		}
		if wantCode(t, err, banger.CodeUnavailable); !errors.Is(err, banger.ErrEnding) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !w.host.Is(vm.Held.VMM) {
		t.Error("the guest was ended")
	}
}
