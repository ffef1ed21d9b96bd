package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"banger"
	"banger/vmm/machine"
)

// sandbox is the seccomp filter that QEMU sets for itself: no new privileges, no fork or
// exec, no system calls that only old programs need.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// minVersion is the first release with `-netdev dgram`.
var minVersion = [2]int{7, 2}

// parallelVersion is the first release whose emulated CPUs may run in parallel. Before it, a
// CPU could go on with translated code that another CPU had changed, since QEMU watched the
// page only after translating it. Linux changes its own code while it runs (static keys), by
// breakpoints; both CPUs then hit for ever a breakpoint that was already gone. Seen with 7.2
// once in some hundred boots on a busy host.
var parallelVersion = [2]int{8, 1}

// parallel reports whether the build's emulated processors may run in parallel.
func (b build) parallel() bool { return !older(b.Version, parallelVersion) }

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// build is what we must know of a QEMU binary. Asking costs two starts of it (40 ms).
type build struct {
	file    machine.File
	command []string // how it is started: its path, or a loader with that
	Version [2]int   `json:"version"`
	// Unconfined is why it can't have its sandbox; empty: it can.
	Unconfined string `json:"unconfined,omitempty"`
}

// Describe says which QEMU would run machines, with a note for people, or why none can.
func (d *Driver) Describe(ctx context.Context) (path, version, note string, err error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", "", "", err
	}
	if err := d.confined(b, false); err != nil {
		return "", "", "", err
	}
	var notes []string
	if b.Unconfined != "" {
		notes = append(notes, "it runs without its sandbox: "+b.Unconfined)
	}
	if !d.cfg.KVM && !b.parallel() {
		notes = append(notes, fmt.Sprintf("a VM's processors are emulated one at a time: in parallel, guests may hang before version %d.%d", parallelVersion[0], parallelVersion[1]))
	}
	note = strings.Join(notes, "; ")
	return b.file.Path, fmt.Sprintf("%d.%d", b.Version[0], b.Version[1]), note, nil
}

// InTurn reports whether the CPUs of an emulated machine run one at a time here. Then a second
// one is of no use.
func (d *Driver) InTurn(ctx context.Context) bool {
	b, err := d.identify(ctx)
	return err == nil && !b.parallel()
}

// confined returns an error for a QEMU without its sandbox, unless a user has allowed that.
func (d *Driver) confined(b build, insecure bool) error {
	if b.Unconfined == "" || d.cfg.Insecure || insecure {
		return nil
	}
	return banger.Errorf(banger.CodeUnavailable, "%s can't have its sandbox: %s", b.file.Path, b.Unconfined).
		WithHint("install a QEMU that is built with seccomp. --insecure-vmm for one VM, or insecure_vmm = true in config.toml for all, runs it without: then a guest that breaks out of QEMU has all your rights")
}

// identify returns the build that runs machines: the host's own, or else one that was fetched.
func (d *Driver) identify(ctx context.Context) (build, error) {
	b, err := d.identifyOwn(ctx)
	if err == nil || d.cfg.Fetched == nil {
		return b, err
	}
	if path, command := d.cfg.Fetched(); path != "" {
		return d.about(ctx, path, command)
	}
	return b, err
}

func (d *Driver) identifyOwn(ctx context.Context) (build, error) {
	path, err := exec.LookPath(d.cfg.Binary)
	if errors.Is(err, exec.ErrNotFound) {
		err = errors.New("it isn't in PATH")
	}
	if err != nil {
		return build{}, banger.Errorf(banger.CodeUnavailable, "no %s on this host: %w", d.cfg.Binary, err).
			WithHint("`banger hypervisor install qemu` fetches one; or install qemu-system-x86")
	}
	return d.about(ctx, path, []string{path})
}

// about returns the build of a binary that is started by a command.
func (d *Driver) about(ctx context.Context, path string, command []string) (build, error) {
	file, b, err := d.builds.Of(path, func() (build, bool, error) { return ask(ctx, path, command) })
	b.file, b.command = file, command
	return b, err
}

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`)

// noSandbox is the error of a QEMU that was built without seccomp (its softmmu/vl.c). Any
// other error comes from the host, and may not come again.
const noSandbox = "not enabled in this QEMU binary"

// ask runs the binary to learn what it can. The answer is sure if it depends only on the
// binary, and not on the host's present state.
func ask(ctx context.Context, path string, command []string) (b build, sure bool, err error) {
	run := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, command[0], slices.Concat(command[1:], args)...).Output()
	}
	out, err := run("-version")
	if err != nil {
		return b, false, banger.Errorf(banger.CodeUnavailable, "%s -version: %w", path, err).WithHint("it doesn't run here: install qemu-system-x86 again")
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return b, false, banger.Errorf(banger.CodeUnavailable, "%s isn't a QEMU: it says %.60q", path, out)
	}
	b.Version[0], _ = strconv.Atoi(string(m[1])) // digits, by the pattern
	b.Version[1], _ = strconv.Atoi(string(m[2]))
	if older(b.Version, minVersion) {
		return b, false, banger.Errorf(banger.CodeUnavailable, "%s is version %d.%d, at least %d.%d is needed", path, b.Version[0], b.Version[1], minVersion[0], minVersion[1]).
			WithHint("install a newer qemu-system-x86: Debian has one since 12, Ubuntu since 23.04")
	}
	// QEMU sets the filter before it lists machines, so a build without it fails here.
	sure = true
	out, err = run("-sandbox", sandbox, "-M", "help")
	if err != nil {
		b.Unconfined = err.Error()
		if e, ok := errors.AsType[*exec.ExitError](err); ok && len(e.Stderr) > 0 {
			b.Unconfined = fmt.Sprintf("%.300q", bytes.TrimSpace(e.Stderr))
		}
		sure = strings.Contains(b.Unconfined, noSandbox)
		if out, err = run("-M", "help"); err != nil {
			return b, false, fmt.Errorf("%s -M help: %w", path, err)
		}
	}
	if !bytes.Contains(out, []byte("\nmicrovm ")) {
		return b, false, banger.Errorf(banger.CodeUnavailable, "%s has no microvm machine", path)
	}
	return b, sure, nil
}
