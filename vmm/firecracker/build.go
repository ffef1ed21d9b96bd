package firecracker

import (
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

// Tested is the version that the suites of this package passed on last, as
// docs/verification.md records.
const Tested = "1.16.1"

// minVersion is the first release whose balloon reports free pages.
var minVersion = version{1, 14, 0}

type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) before(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// build is what we must know of a Firecracker binary. The answer is kept for as
// long as the file is the same.
type build struct {
	Path    string  `json:"path"`
	Size    int64   `json:"size"`
	ModTime int64   `json:"mtime"` // nanoseconds since 1970
	Version version `json:"version"`
}

// buildFile is where the answer is kept, in Config.CacheDir.
const buildFile = "firecracker.json"

// Describe says which Firecracker machines would run on, or why none can.
func (d *Driver) Describe(ctx context.Context) (path, version string, err error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", "", err
	}
	return b.Path, b.Version.String(), nil
}

// identify returns the build of the driver's binary.
func (d *Driver) identify(ctx context.Context) (build, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path, err := d.find()
	if err != nil {
		return build{}, banger.Errorf(banger.CodeUnavailable, "no Firecracker on this host: %w", err).
			WithHint("banger hypervisor install fetches it; or use --hypervisor qemu")
	}
	st, err := os.Stat(path)
	if err != nil {
		return build{}, err
	}
	if jailer := jailerOf(path); d.cfg.Jail {
		if _, err := os.Stat(jailer); err != nil {
			return build{}, banger.Errorf(banger.CodeUnavailable, "Firecracker's jailer isn't beside it: %w", err).
				WithHint("put the release's jailer there; `jailer = false` in config.toml does without, as root")
		}
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

// find returns the first binary that is there, or why the last isn't.
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

// ask runs the binary for what isn't known.
func (b *build) ask(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, b.Path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", b.Path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return banger.Errorf(banger.CodeUnavailable, "%s isn't a Firecracker: it says %.60q", b.Path, out)
	}
	for i := range b.Version {
		b.Version[i], _ = strconv.Atoi(string(m[i+1])) // digits, by the pattern
	}
	if b.Version.before(minVersion) {
		return banger.Errorf(banger.CodeUnavailable, "%s is version %s, at least %s is needed", b.Path, b.Version, minVersion)
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

// cache keeps an answer. Losing it costs a start of the binary, so errors are
// nobody's concern; a torn file doesn't parse.
func (d *Driver) cache(b build) {
	if data, err := json.Marshal(b); err == nil && d.cfg.CacheDir != "" {
		_ = os.WriteFile(filepath.Join(d.cfg.CacheDir, buildFile), data, 0o600)
	}
}
