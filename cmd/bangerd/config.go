package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"runtime"

	"github.com/BurntSushi/toml"

	"banger"
)

// config is config.toml: what a new VM gets when the user doesn't say, and
// where things come from. The names are those of the API's Spec.
type config struct {
	DefaultImage  string `toml:"default_image"`
	DefaultKernel string `toml:"default_kernel"`
	VCPU          int    `toml:"vcpu"`
	MemoryMiB     int    `toml:"memory_mib"`
	DiskMiB       int    `toml:"disk_mib"`
	Mirror        string `toml:"mirror"`     // of Debian, for kernels; empty: this host's own
	Hypervisor    string `toml:"hypervisor"` // driver of VMs that don't say
	LogLevel      string `toml:"log_level"`  // debug, info, warn, error

	level slog.Level
}

func defaults() config {
	return config{
		DefaultImage:  "debian-12",
		DefaultKernel: "debian-12-cloud",
		VCPU:          min(2, runtime.NumCPU()),
		MemoryMiB:     1024,
		DiskMiB:       10 << 10,
		Hypervisor:    "qemu",
		LogLevel:      "info",
	}
}

// readConfig reads the file over the defaults; it may be missing. A key it
// doesn't know is refused: a mistyped setting must not be dropped in silence.
func readConfig(path string) (config, error) {
	c := defaults()
	meta, err := toml.DecodeFile(path, &c)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, banger.Errorf(banger.CodeInvalid, "%s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return c, banger.Errorf(banger.CodeInvalid, "%s: there is no setting %q", path, unknown[0])
	}
	if err := c.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return c, banger.Errorf(banger.CodeInvalid, "%s: log_level: %w", path, err)
	}
	for _, v := range []struct {
		key              string
		val, least, most int
	}{
		{"vcpu", c.VCPU, 1, banger.MaxVCPU},
		{"memory_mib", c.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB},
		{"disk_mib", c.DiskMiB, banger.MinDiskMiB, banger.MaxDiskMiB},
	} {
		if v.val < v.least || v.val > v.most {
			return c, banger.Errorf(banger.CodeInvalid, "%s: %s is %d; it can be %d to %d", path, v.key, v.val, v.least, v.most)
		}
	}
	return c, nil
}
