// Package kvm finds out what the host's processor offers a VMM: whether
// /dev/kvm works, and the rate of the time stamp counter. It owns the judgement
// and its cache, which holds for one boot of the host.
//
// There are hosts (nested ones without help from below, paravirtual ones) where
// the device opens and VMs can be created, yet every instruction of a guest is
// interpreted. So the probe runs a loop in a real vCPU and compares it with
// the same loop run natively.
//
// It refuses to know any VMM, and what follows from a verdict.
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
	"slices"
	"strconv"
	"strings"
	"time"
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

// Result is what was found, in words too.
type Result struct {
	BootID  string        `json:"boot_id"` // the boot it holds for
	Verdict Verdict       `json:"verdict"`
	Detail  string        `json:"detail"`         // the observed fact
	Hint    string        `json:"hint,omitempty"` // what a user could do
	Native  time.Duration `json:"native"`         // the loop on the processor itself
	Guest   time.Duration `json:"guest"`          // the loop in a vCPU
	TSCKHz  int           `json:"tsc_khz"`        // 0: the counter isn't constant
}

const device = "/dev/kvm"

// The loop takes a millisecond or so. Where KVM works a guest's takes as long,
// at worst a few times that on a busy host; where it doesn't, thousands of
// times. The bound lies far from both.
const (
	iterations = 2_000_000
	rounds     = 3 // the quickest counts: it was disturbed least
	crawl      = 20
	leastBound = 50 * time.Millisecond // for a loop in a vCPU, so that a busy host doesn't look like a crawl
)

// Probe finds out, in a quarter of a second; a vCPU that hangs is given up. An
// error means that nothing could be found out; that KVM is of no use is none.
func Probe(ctx context.Context) (Result, error) {
	boot, err := bootID()
	if err != nil {
		return Result{}, err
	}
	rate := make(chan int, 1)
	go func() { rate <- measureTSC() }()
	r := judge(ctx)
	r.BootID, r.TSCKHz = boot, <-rate
	return r, ctx.Err()
}

// Cached returns what an earlier Probe in this boot found and left in the file
// at path, or probes and leaves it there. What a user may have mended since is
// looked at again; the counter's rate then stays what it was found to be.
func Cached(ctx context.Context, path string) (Result, error) {
	boot, err := bootID()
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

// holds tells whether a cached verdict can still be true: permissions and
// modules change within a boot, the processor doesn't.
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

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// judge gives the verdict.
func judge(ctx context.Context) Result {
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Result{Verdict: Missing, Detail: "there is no " + device, Hint: "enable virtualization in the firmware, or nested virtualization in the hypervisor below, and load kvm_intel or kvm_amd"}
	case errors.Is(err, fs.ErrPermission):
		detail, hint := denied()
		return Result{Verdict: Denied, Detail: detail, Hint: hint}
	case err != nil:
		return Result{Verdict: Broken, Detail: err.Error()}
	}
	defer dev.Close()
	r := Result{Native: native()}
	bound := max(crawl*r.Native, leastBound)
	for range rounds {
		took, err := guest(ctx, dev, bound)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			r.Verdict, r.Detail = Broken, err.Error()
			return r
		}
		if r.Guest == 0 || took < r.Guest {
			r.Guest = took
		}
		if err == nil {
			r.Verdict, r.Detail = Works, fmt.Sprintf("a loop of %s takes %s in a guest", millis(r.Native), millis(took))
			return r
		}
	}
	r.Verdict = Crawls
	r.Detail = fmt.Sprintf("%s opens, but a loop of %s takes over %s in a guest", device, millis(r.Native), millis(r.Guest))
	r.Hint = "the hypervisor below offers no hardware virtualization: use a host that does"
	return r
}

// native runs the loop on the processor itself.
func native() time.Duration {
	best := time.Duration(0)
	for range rounds {
		start := time.Now()
		spin(iterations)
		if took := max(time.Since(start), 1); best == 0 || took < best {
			best = took
		}
	}
	return best
}

// guest runs the loop in a vCPU, for at most bound.
func guest(ctx context.Context, dev *os.File, bound time.Duration) (time.Duration, error) {
	code := []byte{0xB9}                                          // mov ecx, iterations
	code = binary.LittleEndian.AppendUint32(code, iterations)     //
	code = append(code, 0xFF, 0xC9, 0x75, 0xFC, 0xE6, 0x10, 0xF4) // dec ecx; jnz -4; out 0x10, al; hlt
	v, err := newVCPU(dev, code)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	took, err := v.execute(ctx)
	if !errors.Is(err, errStuck) {
		v.close()
	}
	return took, err
}

// denied tells why the device can't be opened.
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
		return fmt.Sprintf("%s, though user %s is in group %s: this login is older than that", detail, me.Username, group.Name), "log out and in again"
	case gid != 0:
		return fmt.Sprintf("%s: it belongs to group %s", detail, group.Name), fmt.Sprintf("sudo usermod -aG %s %s, then log out and in again", group.Name, me.Username)
	}
	return detail, hint
}

// millis prints a duration in ASCII, which Duration's own microseconds aren't.
func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
