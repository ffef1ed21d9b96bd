// Package config reads config.toml: what a new VM gets when its user doesn't say,
// where downloads come from, and banger's directories. Command line and daemon read
// it in the same way, so that both find the same directories.
//
// It owns the settings' names, their defaults on this host, their bounds, and where
// each value came from. What a setting does is the business of those who use it.
// Errors are banger.CodeInvalid and name the file and the setting. Sizes are in MiB.
package config

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"banger"
	"banger/host/xdg"
)

// Config are the settings. Those about VMs are named as in banger.Spec.
type Config struct {
	DefaultImage  string   `toml:"default_image"`
	DefaultKernel string   `toml:"default_kernel"`
	VCPU          int      `toml:"vcpu"`
	MemoryMiB     int      `toml:"memory_mib"`
	DiskMiB       int      `toml:"disk_mib"`
	Mirror        string   `toml:"mirror"`
	Security      string   `toml:"security_mirror"`
	Isolation     string   `toml:"isolation"`
	Hypervisor    string   `toml:"hypervisor"`
	ProcessKernel string   `toml:"process_kernel"`
	Firecracker   string   `toml:"firecracker"`
	FirecrackerAt string   `toml:"firecracker_mirror"`
	Jailer        bool     `toml:"jailer"`
	DiskDriver    string   `toml:"disk_driver"`
	Net           string   `toml:"net"`
	WarmStart     bool     `toml:"warm_start"`
	InsecureVMM   bool     `toml:"insecure_vmm"`
	BridgeSubnet  string   `toml:"bridge_subnet"`
	BridgeNAT     bool     `toml:"bridge_nat"`
	BridgePeers   bool     `toml:"bridge_peers"`
	BridgePorts   []int    `toml:"bridge_ports"`
	BootDeadline  string   `toml:"boot_deadline"`
	LikeHost      bool     `toml:"like_host"`
	GuestProxy    string   `toml:"guest_proxy"`
	GuestCA       string   `toml:"guest_ca"`
	Mirrors       []string `toml:"registry_mirrors"`
	ImageGiB      int      `toml:"image_max_gib"`
	ImageEntries  int      `toml:"image_max_entries"`
	ImageFreeMiB  int      `toml:"image_leave_free_mib"`
	AutoStop      string   `toml:"auto_stop_stale_after"`
	ProxyPort     int      `toml:"proxy_port"`
	LogLevel      string   `toml:"log_level"`
	StateDir      string   `toml:"state_dir"`
	DataDir       string   `toml:"data_dir"`
	CacheDir      string   `toml:"cache_dir"`

	from map[string]bool // the settings that the file has
	path string
}

// settings are the names with what they mean, in the order they are shown.
var settings = []struct {
	key, means string
	value      func(*Config) any
}{
	{"default_image", "the image of VMs made without --image", func(c *Config) any { return c.DefaultImage }},
	{"default_kernel", "their kernel, unless their isolation is process", func(c *Config) any { return c.DefaultKernel }},
	{"process_kernel", "their kernel if their isolation is process: one that is a program", func(c *Config) any { return c.ProcessKernel }},
	{"vcpu", "their virtual CPUs; 0: all of this host's up to 4, without KVM 1, or up to 2 where QEMU emulates several at a time (doctor says so)", func(c *Config) any { return c.VCPU }},
	{"memory_mib", "their memory, in MiB; 0: an eighth of this host's, 512 to 4096 (doctor says how much)", func(c *Config) any { return c.MemoryMiB }},
	{"disk_mib", "their disk, in MiB; on this host it takes only what is written to it", func(c *Config) any { return c.DiskMiB }},
	{"isolation", "what keeps them from this host: hardware (KVM), process (User-mode Linux in a jail), emulated (QEMU without KVM), or auto, which is the first of these that works here and can do what a VM asks for", func(c *Config) any { return c.Isolation }},
	{"hypervisor", "their hypervisor: firecracker, qemu, uml, or auto, which is what fits their isolation, and Firecracker where that and KVM work", func(c *Config) any { return c.Hypervisor }},
	{"firecracker", "the path of Firecracker; empty: what `banger hypervisor install` fetched, else in PATH", func(c *Config) any { return c.Firecracker }},
	{"jailer", "run Firecracker under its jailer, for a daemon that runs as root", func(c *Config) any { return c.Jailer }},
	{"firecracker_mirror", "where Firecracker is fetched from; empty: the project's releases", func(c *Config) any { return c.FirecrackerAt }},
	{"disk_driver", "their disks: file, or dm-snapshot for a daemon that runs as root", func(c *Config) any { return c.DiskDriver }},
	{"net", "their network: user, none, or bridge for a daemon that runs as root", func(c *Config) any { return c.Net }},
	{"warm_start", "start them from templates where that saves a boot; templates are made without being asked for", func(c *Config) any { return c.WarmStart }},
	{"insecure_vmm", "let a VMM run without its sandbox where that can't be had: a guest that breaks out of the VMM then has all rights of the daemon's user", func(c *Config) any { return c.InsecureVMM }},
	{"boot_deadline", "how long a guest may take to answer; then its boot is tried once more", func(c *Config) any { return c.BootDeadline }},
	{"like_host", "give VMs git's name and mail of this user, and this host's time zone and language", func(c *Config) any { return c.LikeHost }},
	{"guest_proxy", "the proxy that commands in VMs use: host for those that the daemon's environment names, or a URL; empty: none", func(c *Config) any { return c.GuestProxy }},
	{"guest_ca", "a file of certificates, as PEM, that VMs trust, too; empty: none", func(c *Config) any { return c.GuestCA }},
	{"bridge_subnet", "the IPv4 subnet of the network bridge", func(c *Config) any { return c.BridgeSubnet }},
	{"bridge_nat", "let VMs on the bridge reach networks beyond this host, by NAT", func(c *Config) any { return c.BridgeNAT }},
	{"bridge_peers", "let VMs on the bridge reach each other", func(c *Config) any { return c.BridgePeers }},
	{"bridge_ports", "this host's TCP and UDP ports that VMs on the bridge reach, as [53]", func(c *Config) any { return c.BridgePorts }},
	{"mirror", "the Debian mirror that kernels and packages come from; empty: this host's own, else deb.debian.org", func(c *Config) any { return c.Mirror }},
	{"security_mirror", "the mirror of debian-security; empty: deb.debian.org's", func(c *Config) any { return c.Security }},
	{"registry_mirrors", "who is asked first for images of a registry, as [\"docker.io=mirror.example/hub\"]; who has no answer is passed over, and none gets a password", func(c *Config) any { return c.Mirrors }},
	{"image_max_gib", "the most that an image's files may have, in GiB", func(c *Config) any { return c.ImageGiB }},
	{"image_max_entries", "the most files, directories and links that an image may have", func(c *Config) any { return c.ImageEntries }},
	{"image_leave_free_mib", "the room that pulls and imports of images leave free on a disk, in MiB", func(c *Config) any { return c.ImageFreeMiB }},
	{"auto_stop_stale_after", "stop VMs that had no client, command or load for this long, as 2h or 90m; 0: never", func(c *Config) any { return c.AutoStop }},
	{"proxy_port", "this host's port at which browsers reach what listens in VMs, as http://3000.NAME.localhost:8788/; 0: none", func(c *Config) any { return c.ProxyPort }},
	{"log_level", "the least level that the daemon logs: debug, info, warn, error", func(c *Config) any { return c.LogLevel }},
	{"state_dir", "where records, VMs and the daemon's log are", func(c *Config) any { return c.StateDir }},
	{"data_dir", "where images, kernels and the bases of disks are", func(c *Config) any { return c.DataDir }},
	{"cache_dir", "where downloads are", func(c *Config) any { return c.CacheDir }},
}

// Setting is one value and where it came from.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"` // "default", or the file's path
	Means  string `json:"means"`
}

// Default returns the settings of this host without a file, with directories d.
func Default(d xdg.Dirs) Config {
	return Config{
		DefaultImage:  "debian-12",
		DefaultKernel: "debian-12-cloud",
		ProcessKernel: "debian-13-uml",
		Isolation:     "auto",
		DiskMiB:       10 << 10,
		Hypervisor:    "auto",
		Jailer:        true,
		DiskDriver:    "file",
		Net:           string(banger.NetUser),
		WarmStart:     true,
		BridgeSubnet:  "10.213.0.0/16",
		BridgeNAT:     true,
		BridgePorts:   []int{},
		Mirrors:       []string{},
		ImageGiB:      512,
		ImageEntries:  3 << 19,
		ImageFreeMiB:  512,
		BootDeadline:  "1m",
		LikeHost:      true,
		AutoStop:      "0",
		ProxyPort:     8788,
		LogLevel:      "info",
		StateDir:      d.State,
		DataDir:       d.Data,
		CacheDir:      d.Cache,
		path:          filepath.Join(d.Config, "config.toml"),
	}
}

// Load finds the user's directories and reads their config.toml, if there is one. It
// returns the directories that the file sets; on an error, those without the file.
func Load(getenv func(string) string) (Config, xdg.Dirs, error) {
	d, err := xdg.Of(getenv)
	if err != nil {
		return Config{}, d, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	c, err := Read(d)
	if err != nil {
		return c, d, err
	}
	return c, c.dirs(d), nil
}

// Read reads the config.toml of the directories d over the defaults. An unknown key
// is an error, so that a mistyped setting isn't silently ignored.
func Read(d xdg.Dirs) (Config, error) {
	c := Default(d)
	bad := func(format string, args ...any) (Config, error) {
		return Default(d), banger.Errorf(banger.CodeInvalid, "%s: "+format, append([]any{c.path}, args...)...)
	}
	meta, err := toml.DecodeFile(c.path, &c)
	if p, ok := errors.AsType[toml.ParseError](err); ok {
		return bad("line %d: %s", p.Position.Line, cmpOr(p.Message, err.Error()))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bad("%w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		key := unknown[0].String()
		hint := "the settings are " + strings.Join(keys(), ", ")
		if like := nearest(key, keys()); like != "" {
			hint = "did you mean " + like + "? `banger config show` lists all settings"
		}
		c, err := bad("there is no setting %q", key)
		e, _ := errors.AsType[*banger.Error](err)
		return c, e.WithHint("%s", hint)
	}
	c.from = map[string]bool{}
	for _, k := range meta.Keys() {
		c.from[k.String()] = true
	}
	if err := c.check(); err != nil {
		return bad("%w", err)
	}
	return c, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// check returns an error for a value out of its bounds.
func (c *Config) check() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return banger.Errorf(banger.CodeInvalid, "log_level is %q; it can be debug, info, warn or error", c.LogLevel)
	}
	if d, err := time.ParseDuration(c.BootDeadline); err != nil || d < time.Second {
		return banger.Errorf(banger.CodeInvalid, "boot_deadline is %q; it can be a time such as 90s or 3m, one second at least", c.BootDeadline)
	}
	if d, err := time.ParseDuration(c.AutoStop); err != nil || d < 0 || d > 0 && d < time.Second {
		return banger.Errorf(banger.CodeInvalid, "auto_stop_stale_after is %q; it can be a time such as 90m or 2h, one second at least, or 0 for never", c.AutoStop)
	}
	for _, v := range []struct {
		key              string
		val, least, most int
	}{
		{"vcpu", c.VCPU, 0, banger.MaxVCPU},
		{"memory_mib, unless it is 0,", cmp.Or(c.MemoryMiB, banger.MinMemoryMiB), banger.MinMemoryMiB, banger.MaxMemoryMiB},
		{"disk_mib", c.DiskMiB, banger.MinDiskMiB, banger.MaxDiskMiB},
		{"image_max_gib", c.ImageGiB, 1, 512},
		{"image_max_entries", c.ImageEntries, 1, 3 << 19},
		{"image_leave_free_mib", c.ImageFreeMiB, 1, 1 << 30},
	} {
		if v.val < v.least || v.val > v.most {
			return banger.Errorf(banger.CodeInvalid, "%s is %d; it can be %d to %d", v.key, v.val, v.least, v.most)
		}
	}
	for _, v := range []struct{ key, val string }{{"firecracker", c.Firecracker}, {"guest_ca", c.GuestCA}} {
		if v.val != "" && !filepath.IsAbs(v.val) {
			return banger.Errorf(banger.CodeInvalid, "%s is %q; it must be an absolute path", v.key, v.val)
		}
	}
	if u, err := url.Parse(c.GuestProxy); c.GuestProxy != "" && c.GuestProxy != "host" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return banger.Errorf(banger.CodeInvalid, "guest_proxy is %q; it can be host, or a URL such as http://proxy.example:3128", c.GuestProxy)
	}
	for _, v := range []struct {
		key, val string
		can      []string
	}{
		{"isolation", c.Isolation, []string{"auto", string(banger.ByHardware), string(banger.ByEmulation), string(banger.ByProcess)}},
		{"hypervisor", c.Hypervisor, []string{"auto", "firecracker", "qemu", "uml"}},
		{"disk_driver", c.DiskDriver, []string{"file", "dm-snapshot"}},
		{"net", c.Net, []string{string(banger.NetUser), string(banger.NetBridge), string(banger.NetNone)}},
	} {
		if !slices.Contains(v.can, v.val) {
			return banger.Errorf(banger.CodeInvalid, "%s is %q; it can be %s", v.key, v.val, strings.Join(v.can, ", "))
		}
	}
	for _, m := range c.Mirrors {
		if of, at, ok := strings.Cut(m, "="); !ok || of == "" || at == "" || strings.ContainsAny(m, " @") || strings.Contains(m, "://") {
			return banger.Errorf(banger.CodeInvalid, "registry_mirrors has %q; it can be REGISTRY=MIRROR, such as docker.io=mirror.example/hub", m)
		}
	}
	if c.ProxyPort < 0 || c.ProxyPort > 65535 {
		return banger.Errorf(banger.CodeInvalid, "proxy_port is %d; a port can be 1 to 65535, or 0 for none", c.ProxyPort)
	}
	for _, port := range c.BridgePorts {
		if port < 1 || port > 65535 {
			return banger.Errorf(banger.CodeInvalid, "bridge_ports has %d; a port can be 1 to 65535", port)
		}
	}
	for key, dir := range map[string]string{"state_dir": c.StateDir, "data_dir": c.DataDir, "cache_dir": c.CacheDir} {
		if !filepath.IsAbs(dir) {
			return banger.Errorf(banger.CodeInvalid, "%s is %q; it must be an absolute path", key, dir)
		}
	}
	return nil
}

// dirs returns d with the directories the settings name.
func (c *Config) dirs(d xdg.Dirs) xdg.Dirs {
	d.Socket = filepath.Join(c.StateDir, filepath.Base(d.Socket))
	d.State, d.Data, d.Cache = c.StateDir, c.DataDir, c.CacheDir
	return d
}

// Path is where config.toml is, or would be.
func (c *Config) Path() string { return c.path }

// Boot is how long a guest may take to its agent's first answer.
func (c *Config) Boot() time.Duration {
	d, _ := time.ParseDuration(c.BootDeadline) // checked when it was read
	return d
}

// AutoStopStaleAfter is how long a VM must be unused before it is stopped; 0: never.
func (c *Config) AutoStopStaleAfter() time.Duration {
	d, _ := time.ParseDuration(c.AutoStop) // checked when it was read
	return d
}

// Level is the daemon's log level.
func (c *Config) Level() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked when it was read
	return level
}

// Settings returns all settings.
func (c *Config) Settings() []Setting {
	var list []Setting
	for _, s := range settings {
		source := "default"
		if c.from[s.key] {
			source = c.path
		}
		list = append(list, Setting{Key: s.key, Value: s.value(c), Source: source, Means: s.means})
	}
	return list
}

func keys() []string {
	var list []string
	for _, s := range settings {
		list = append(list, s.key)
	}
	return list
}

// nearest returns the known word that is most like a mistyped one, or "".
func nearest(word string, known []string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		for _, k := range known { // "memory" for memory_mib
			if len(word) > 2 && slices.Contains(strings.Split(k, "_"), strings.ToLower(word)) {
				return k
			}
		}
	}
	return best
}

// distance is the Levenshtein distance: how many letters to change, add or drop.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
