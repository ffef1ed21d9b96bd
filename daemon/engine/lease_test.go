package engine_test

import (
	"context"
	"testing"
	"time"

	"banger"
)

// hold keeps "it" alive until release is called; over receives once it doesn't.
func (d *daemon) hold() (release func(), over chan error) {
	ctx, release := context.WithCancel(d.ctx)
	over = make(chan error, 1)
	go func() { over <- d.HoldVM(ctx, "it", nil) }()
	time.Sleep(time.Nanosecond) // until it is held
	return release, over
}

func (d *daemon) there() bool {
	_, err := d.VM(context.Background(), "it")
	return err == nil
}

// leases says what is wrong with those of "it", which last half a minute.
func leases(w *world) string {
	const lease, moment = 30 * time.Second, time.Second
	w.defaults.Lease = lease
	d := w.open(nil)
	made(bridged, true)(w, d)
	time.Sleep(10 * lease)
	if !d.there() {
		return "a VM without --rm was deleted"
	}
	if err := d.DeleteVM(context.Background(), "it"); err != nil {
		return err.Error()
	}
	made(leased, true)(w, d)
	release, over := d.hold()
	if time.Sleep(10 * lease); !d.there() {
		return "a VM that somebody held was deleted"
	}
	release()
	<-over
	if time.Sleep(lease - moment); !d.there() {
		return "a VM was deleted before its lease had run out"
	}
	release, over = d.hold()
	if time.Sleep(lease); !d.there() {
		return "a VM whose client came back was deleted"
	}
	d.kill() // its client learns of it, and has as long again
	<-over
	release()
	d = w.open(nil)
	if time.Sleep(lease - moment); !d.there() {
		return "a VM was deleted before its client could find the next daemon"
	}
	release, over = d.hold()
	if time.Sleep(10 * lease); !d.there() {
		return "a VM was deleted by the next daemon while somebody held it"
	}
	release()
	<-over
	if time.Sleep(lease + moment); d.there() {
		return "a VM was kept when its lease had run out"
	}
	return said(append(w.settle(d), w.check(d)...), "after its lease")
}

// A --rm VM lives while somebody holds it, over a restart of the daemon too, and
// not much longer.
func TestLeases(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		if wrong := leases(w); wrong != "" {
			t.Error(wrong)
		}
		d := w.daemons[len(w.daemons)-1]
		wantCode(t, d.HoldVM(t.Context(), "it", nil), banger.CodeNotFound)
	})
}

// A lease runs out while something else goes on with the VM, and its client comes
// back before that is over: it is told that the VM is lost, or keeps it.
func TestLeaseRunsOutMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.defaults.Lease = 30 * time.Second
		d := w.open(nil)
		made(leased, true)(w, d)
		w.pauses.take(2 * time.Minute)
		release, over := d.hold()
		release()
		<-over
		stopped := make(chan error, 1)
		go func() { stopped <- stop(banger.StopOptions{Timeout: 5 * time.Minute})(context.Background(), d) }()
		time.Sleep(time.Minute) // the lease is over, and the stop isn't
		release, over = d.hold()
		defer release()
		time.Sleep(time.Hour)
		<-stopped
		select {
		case err := <-over:
			if wantCode(t, err, banger.CodeNotFound); d.there() {
				t.Error("the client was told that its VM is gone, and it isn't")
			}
		default:
			if !d.there() {
				t.Error("a VM that somebody holds was deleted")
			}
		}
	})
}
