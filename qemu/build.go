package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"banger"
)

// sandbox is the seccomp filter QEMU puts upon itself: no new privileges,
// no fork or exec, no system calls that only old programs need.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// minVersion is the first release with `-netdev dgram`.
var minVersion = [2]int{7, 2}

// parallelVersion is the first release whose emulated processors may run beside
// each other. Before it, a processor could go on with the translation of code
// that another had changed meanwhile, for the page was watched only once it was
// translated. Linux changes its own code while it runs (static keys), by way of
// breakpoints; both processors then met for ever one that was no longer there.
// Seen with 7.2 once in some hundred boots on a busy host.
var parallelVersion = [2]int{8, 1}

// parallel reports whether the build's emulated processors may run in parallel.
func (b build) parallel() bool { return !older(b.Version, parallelVersion) }

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// build is what we must know of a QEMU binary. Asking costs two starts of it
// (40 ms), so the answer is kept, for as long as the file is the same.
type build struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
	Version [2]int `json:"version"`
	Sandbox bool   `json:"sandbox"` // built with seccomp
}

// buildFile is where the answer is kept, in Config.CacheDir.
const buildFile = "qemu.json"

// Describe says which QEMU machines would run on, with what a person should know
// of it, or why none can.
func (d *Driver) Describe(ctx context.Context) (path, version, note string, err error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", "", "", err
	}
	if !d.cfg.KVM && !b.parallel() {
		note = fmt.Sprintf("a VM's processors are emulated one at a time: in parallel, guests may hang before version %d.%d", parallelVersion[0], parallelVersion[1])
	}
	return b.Path, fmt.Sprintf("%d.%d", b.Version[0], b.Version[1]), note, nil
}

// identify returns the build of the driver's binary.
func (d *Driver) identify(ctx context.Context) (build, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path, err := exec.LookPath(d.cfg.Binary)
	if err != nil {
		return build{}, banger.Errorf(banger.CodeUnavailable, "no %s on this host: %w", d.cfg.Binary, err).WithHint("install qemu-system-x86")
	}
	st, err := os.Stat(path)
	if err != nil {
		return build{}, err
	}
	want := build{Path: path, Size: st.Size(), ModTime: st.ModTime().UnixNano()}
	for _, b := range []build{d.known, d.cached()} {
		if b.Path == want.Path && b.Size == want.Size && b.ModTime == want.ModTime {
			d.known = b
			return b, nil
		}
	}
	if err := want.ask(ctx); err != nil {
		return build{}, err
	}
	d.known = want
	d.cache(want)
	return want, nil
}

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`)

// ask runs the binary for what isn't known.
func (b *build) ask(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, b.Path, "-version").Output()
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "%s -version: %w", b.Path, err).WithHint("it doesn't run here: install qemu-system-x86 again")
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return banger.Errorf(banger.CodeUnavailable, "%s isn't a QEMU: it says %.60q", b.Path, out)
	}
	b.Version[0], _ = strconv.Atoi(string(m[1])) // digits, by the pattern
	b.Version[1], _ = strconv.Atoi(string(m[2]))
	if older(b.Version, minVersion) {
		return banger.Errorf(banger.CodeUnavailable, "%s is version %d.%d, at least %d.%d is needed", b.Path, b.Version[0], b.Version[1], minVersion[0], minVersion[1]).
			WithHint("install a newer qemu-system-x86: Debian has one since 12, Ubuntu since 23.04")
	}
	// The filter is entered before the machines are listed, so a build without it
	// fails here and prints no list.
	out, err = exec.CommandContext(ctx, b.Path, "-sandbox", sandbox, "-M", "help").Output()
	if b.Sandbox = err == nil; !b.Sandbox {
		if out, err = exec.CommandContext(ctx, b.Path, "-M", "help").Output(); err != nil {
			return fmt.Errorf("%s -M help: %w", b.Path, err)
		}
	}
	if !bytes.Contains(out, []byte("\nmicrovm ")) {
		return banger.Errorf(banger.CodeUnavailable, "%s has no microvm machine", b.Path)
	}
	return nil
}

// cached returns the kept answer, or the zero build.
func (d *Driver) cached() (b build) {
	data, err := os.ReadFile(filepath.Join(d.cfg.CacheDir, buildFile))
	if err != nil || json.Unmarshal(data, &b) != nil {
		return build{}
	}
	return b
}

// cache keeps an answer. Losing it costs 40 ms, so errors are nobody's concern;
// a torn file doesn't parse.
func (d *Driver) cache(b build) {
	if data, err := json.Marshal(b); err == nil && d.cfg.CacheDir != "" {
		_ = os.WriteFile(filepath.Join(d.cfg.CacheDir, buildFile), data, 0o600)
	}
}
