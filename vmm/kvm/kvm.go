// Package kvm finds out what the host's processor offers a VMM: whether
// /dev/kvm works, and the rate of the time stamp counter. It owns the verdict and its cache,
// which is valid for one boot of the host.
//
// On some hosts (nested ones without hardware support, paravirtual ones) the device opens
// and VMs can be created, but every instruction of a guest is interpreted. So the probe runs
// a loop in a real vCPU and compares its time with that of the same loop on the processor.
//
// It knows nothing of VMMs, or of what a verdict means for them.
package kvm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/host/proc"
)

// Verdict is what can be expected of KVM.
type Verdict string

// The verdicts.
const (
	Works   Verdict = "works"
	Missing Verdict = "missing" // there is no device
	Denied  Verdict = "denied"  // this process may not open it
	Broken  Verdict = "broken"  // it opens, but a VM can't be made or run
	Crawls  Verdict = "crawls"  // guests run, many times slower than they should
)

// Result is what was found.
type Result struct {
	BootID  string        `json:"boot_id"` // the boot for which it is valid
	Verdict Verdict       `json:"verdict"`
	Detail  string        `json:"detail"`         // the observed fact
	Hint    string        `json:"hint,omitempty"` // what a user could do
	Native  time.Duration `json:"native"`         // the loop on the processor itself
	Guest   time.Duration `json:"guest"`          // the loop in a vCPU
	TSCKHz  int           `json:"tsc_khz"`        // 0: the counter isn't constant
}

const device = "/dev/kvm"

// The loop takes about a millisecond. Where KVM works it takes as long in a guest, or a few
// times as long on a busy host; where it doesn't, thousands of times. The bound is far from
// both.
const (
	iterations = 2_000_000
	rounds     = 3 // the quickest counts, as it was disturbed least
	crawl      = 20
	leastBound = 50 * time.Millisecond // for a loop in a vCPU, as CPU time is measured coarsely
)

// Probe finds out what KVM can do, in a quarter of a second. It gives up a vCPU that hangs. An
// error means that nothing could be found out; useless KVM is a verdict, not an error.
func Probe(ctx context.Context) (Result, error) {
	boot, err := proc.BootID()
	if err != nil {
		return Result{}, err
	}
	rate := make(chan int, 1)
	go func() { rate <- measureTSC() }()
	r, err := judge(ctx)
	r.BootID, r.TSCKHz = boot, <-rate
	return r, errors.Join(err, ctx.Err())
}

// Cached returns the result of an earlier Probe in this boot, from the file at path, else it
// probes and writes the file. It probes again if a user may have mended what was wrong; the
// counter's rate then stays as first measured.
func Cached(ctx context.Context, path string) (Result, error) {
	boot, err := proc.BootID()
	if err != nil {
		return Result{}, err
	}
	var r Result
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &r) == nil && r.BootID == boot && r.holds() {
		return r, nil
	}
	kept := r.TSCKHz
	if r, err = Probe(ctx); err != nil {
		return Result{}, err
	}
	r.TSCKHz = steady(kept, r.TSCKHz)
	return r, store(path, r)
}

// holds reports whether a cached verdict must still be true: permissions and modules can
// change within a boot, the processor can't.
func (r Result) holds() bool {
	if r.Verdict != Works && r.Verdict != Crawls {
		return false
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func store(path string, r Result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("keep what KVM does: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep what KVM does: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// judge gives the verdict. An error means that there is none.
func judge(ctx context.Context) (Result, error) {
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Result{Verdict: Missing, Detail: "there is no " + device, Hint: "enable virtualization in the firmware, or nested virtualization in the hypervisor below, and load kvm_intel or kvm_amd"}, nil
	case errors.Is(err, fs.ErrPermission):
		detail, hint := denied()
		return Result{Verdict: Denied, Detail: detail, Hint: hint}, nil
	case err != nil:
		return Result{Verdict: Broken, Detail: err.Error()}, nil
	}
	defer dev.Close()
	r := Result{Native: native()}
	bound := max(crawl*r.Native, leastBound)
	for range rounds {
		took, err := guest(ctx, dev, bound)
		if errors.Is(err, errStarved) || ctx.Err() != nil {
			return r, fmt.Errorf("try KVM: %w", err)
		}
		if err != nil && !errors.Is(err, errSlow) {
			r.Verdict, r.Detail = Broken, err.Error()
			return r, nil
		}
		if r.Guest == 0 || took < r.Guest {
			r.Guest = took
		}
		if err == nil {
			r.Verdict, r.Detail = Works, fmt.Sprintf("a loop of %s takes %s in a guest", millis(r.Native), millis(took))
			return r, nil
		}
	}
	r.Verdict = Crawls
	r.Detail = fmt.Sprintf("%s opens, but a loop of %s takes over %s in a guest", device, millis(r.Native), millis(r.Guest))
	r.Hint = "the hypervisor below offers no hardware virtualization: use a host that does"
	return r, nil
}

// native runs the loop on the processor itself.
func native() time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := time.Duration(0)
	for range rounds {
		start := threadTime(unix.Gettid())
		spin(iterations)
		if took := max(threadTime(unix.Gettid())-start, 1); best == 0 || took < best {
			best = took
		}
	}
	return best
}

// guest runs the loop in a vCPU, for at most bound of processor time.
func guest(ctx context.Context, dev *os.File, bound time.Duration) (time.Duration, error) {
	code := []byte{0xB9}                                          // mov ecx, iterations
	code = binary.LittleEndian.AppendUint32(code, iterations)     //
	code = append(code, 0xFF, 0xC9, 0x75, 0xFC, 0xE6, 0x10, 0xF4) // dec ecx; jnz -4; out 0x10, al; hlt
	v, err := newVCPU(dev, code)
	if err != nil {
		return 0, err
	}
	took, err := v.execute(ctx, bound)
	if !errors.Is(err, errStuck) {
		v.close()
	}
	return took, err
}

// denied says why the device can't be opened, and what to do.
func denied() (detail, hint string) {
	detail, hint = "no permission to open "+device, "give this user access to "+device
	gid, ok := deviceGroup()
	if !ok {
		return detail, hint
	}
	group, err := user.LookupGroupId(strconv.Itoa(gid))
	me, err2 := user.Current()
	if err != nil || err2 != nil {
		return detail, hint
	}
	active, _ := os.Getgroups() // none known: not active
	all, _ := me.GroupIds()
	switch {
	case slices.Contains(active, gid) || os.Getgid() == gid:
	case slices.Contains(all, group.Gid):
		return fmt.Sprintf("%s, though user %s is in group %s: this login began before that", detail, me.Username, group.Name), "log out and in again"
	case gid != 0:
		return fmt.Sprintf("%s: it belongs to group %s", detail, group.Name), fmt.Sprintf("sudo usermod -aG %s %s, then log out and in again", group.Name, me.Username)
	}
	return detail, hint
}

// millis prints a duration in ASCII; time.Duration would print "µs".
func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
