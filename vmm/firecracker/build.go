package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"banger"
	"banger/vmm/machine"
)

// Tested is the version with which this package's suites last passed, as recorded in
// docs/lab/verification.md.
const Tested = "1.16.1"

// minVersion is the first release whose balloon reports free pages.
var minVersion = version{1, 14, 0}

type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) before(w version) bool { return slices.Compare(v[:], w[:]) < 0 }

// build is what we must know of a Firecracker binary.
type build struct {
	file    machine.File
	Version version `json:"version"`
}

// Describe says which Firecracker would run machines, or why none can.
func (d *Driver) Describe(ctx context.Context) (path, version string, err error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", "", err
	}
	return b.file.Path, b.Version.String(), nil
}

// identify returns the build of the driver's binary.
func (d *Driver) identify(ctx context.Context) (build, error) {
	path, err := d.find()
	if errors.Is(err, exec.ErrNotFound) {
		err = errors.New("it isn't in PATH")
	}
	if err != nil {
		return build{}, banger.Errorf(banger.CodeUnavailable, "no Firecracker on this host: %w", err).
			WithHint("`banger hypervisor install` fetches it; or use --hypervisor qemu")
	}
	if jailer := jailerOf(path); d.cfg.Jail {
		if _, err := os.Stat(jailer); err != nil {
			return build{}, banger.Errorf(banger.CodeUnavailable, "Firecracker's jailer isn't in its directory: %w", err).
				WithHint("put the release's jailer there; with `jailer = false` in config.toml Firecracker runs without it, as root")
		}
	}
	file, b, err := d.builds.Of(path, func() (build, bool, error) { b, err := ask(ctx, path); return b, true, err })
	b.file = file
	return b, err
}

// find returns the first binary that exists, or the error of the last.
func (d *Driver) find() (path string, err error) {
	for _, b := range d.cfg.Binaries {
		if path, err = exec.LookPath(b); err == nil {
			if path, err = filepath.Abs(path); err == nil {
				path, err = filepath.EvalSymlinks(path) // the jailer names its directory so
			}
			return path, err
		}
	}
	return "", err
}

var versionLine = regexp.MustCompile(`^Firecracker v(\d+)\.(\d+)\.(\d+)`)

// ask runs the binary to learn its version.
func ask(ctx context.Context, path string) (b build, err error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return b, fmt.Errorf("%s --version: %w", path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return b, banger.Errorf(banger.CodeUnavailable, "%s isn't a Firecracker: it says %.60q", path, out)
	}
	for i := range b.Version {
		b.Version[i], _ = strconv.Atoi(string(m[i+1])) // digits, by the pattern
	}
	if b.Version.before(minVersion) {
		return b, banger.Errorf(banger.CodeUnavailable, "%s is version %s, at least %s is needed", path, b.Version, minVersion)
	}
	return b, nil
}
