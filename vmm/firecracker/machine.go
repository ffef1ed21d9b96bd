package firecracker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/vmm/machine"
	"banger/vmm/shim"
)

// Names in a VM's directory. Firecracker runs with it as working directory, so
// the paths of its sockets stay below the kernel's 107 bytes.
const (
	configFile   = "firecracker.json"
	apiSocket    = "api.sock"
	vsockSocket  = "v.sock"
	consolePipe  = "console.fifo"
	logPipe      = "firecracker.fifo"
	metricsPipe  = "metrics.fifo"
	metricsLog   = "metrics.log" // a line of JSON a minute (Firecracker's docs/metrics.md)
	netInterface = "eth0"
	ownTap       = "tap0" // in the namespace that the shim makes
)

// driveFile is the name by which Firecracker opens a drive, in its directory. A template
// has the names, and each machine restored from it has files of its own under them.
func driveFile(i int) string { return fmt.Sprintf("drive.%d", i) }

// files lists what a dead Firecracker leaves in the VM's directory.
func files(dir string) (list []string) {
	for _, name := range []string{configFile, apiSocket, vsockSocket, consolePipe, logPipe, metricsPipe, templateState, templateRAM} {
		list = append(list, filepath.Join(dir, name))
	}
	for i := range maxDrives {
		list = append(list, filepath.Join(dir, driveFile(i)))
	}
	return list
}

const (
	guestPort = 512 // where the guest's agent listens (package channel of the agent)
	guestCID  = 3   // the first that isn't reserved (vsock(7)); a guest's own, for its socket is
	maxVCPU   = 32  // Firecracker's
	maxDrives = 26  // as guests' names for them
	statsSecs = 10  // between two reports of the balloon
)

// check refuses a machine that Firecracker can't run.
func check(m banger.Machine) error {
	if m.VCPU > maxVCPU {
		return banger.Errorf(banger.CodeInvalid, "%d vCPUs are out of Firecracker's bounds: 1 to %d", m.VCPU, maxVCPU).
			WithHint("--hypervisor qemu allows up to %d", banger.MaxVCPU)
	}
	return machine.Check(m, maxDrives)
}

// The configuration file (Firecracker's docs/getting-started.md; the fields are
// those of its API, src/firecracker/swagger/firecracker.yaml).
type (
	machineFile struct {
		Boot     bootSource         `json:"boot-source"`
		Drives   []drive            `json:"drives"`
		Machine  machineConfig      `json:"machine-config"`
		Networks []networkInterface `json:"network-interfaces,omitempty"`
		Vsock    vsock              `json:"vsock"`
		Entropy  struct{}           `json:"entropy"`
		Balloon  balloon            `json:"balloon"`
	}
	bootSource struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
		Args   string `json:"boot_args"`
	}
	drive struct {
		ID       string `json:"drive_id"`
		Path     string `json:"path_on_host"`
		Root     bool   `json:"is_root_device"`
		ReadOnly bool   `json:"is_read_only"`
		Cache    string `json:"cache_type"` // "Writeback": a guest's flush is an fsync; the default ignores it
		Limit    *limit `json:"rate_limiter,omitempty"`
	}
	machineConfig struct {
		VCPU   int `json:"vcpu_count"`
		Memory int `json:"mem_size_mib"`
	}
	networkInterface struct {
		ID  string `json:"iface_id"`
		Tap string `json:"host_dev_name"`
		MAC string `json:"guest_mac"`
		In  *limit `json:"rx_rate_limiter,omitempty"`
		Out *limit `json:"tx_rate_limiter,omitempty"`
	}
	limit struct {
		Bandwidth *bucket `json:"bandwidth,omitempty"` // of bytes
		Ops       *bucket `json:"ops,omitempty"`       // of requests
	}
	// bucket holds a second's worth, and is full again after one.
	bucket struct {
		Size   int64 `json:"size"`
		Refill int   `json:"refill_time"` // ms
	}
	vsock struct {
		CID  int    `json:"guest_cid"`
		Path string `json:"uds_path"`
	}
	balloon struct {
		Amount    int  `json:"amount_mib"`
		Deflate   bool `json:"deflate_on_oom"`
		Interval  int  `json:"stats_polling_interval_s"`
		Reporting bool `json:"free_page_reporting"` // the host gets back what the guest has freed
	}
)

// describe returns the configuration of a machine.
func describe(m banger.Machine) machineFile {
	f := machineFile{
		Boot:    bootSource{m.Kernel, m.Initramfs, kernelArgs(m)},
		Drives:  []drive{},
		Machine: machineConfig{m.VCPU, m.MemoryMiB},
		Vsock:   vsock{guestCID, vsockSocket},
		Balloon: balloon{Deflate: true, Interval: statsSecs, Reporting: true},
	}
	for i, d := range m.Drives {
		f.Drives = append(f.Drives, drive{ID: d.Serial, Path: driveFile(i), ReadOnly: d.ReadOnly, Cache: "Writeback", Limit: limitOf(m.Limits.DiskMiB, m.Limits.DiskOps)})
	}
	if m.Net.Mode != banger.NetNone && m.Net.Mode != "" {
		tap := ownTap
		if m.Net.Mode == banger.NetBridge {
			tap = m.Net.Tap
		}
		l := limitOf(m.Limits.NetMiB, 0)
		f.Networks = []networkInterface{{ID: netInterface, Tap: tap, MAC: m.Net.MAC, In: l, Out: l}}
	}
	return f
}

// limitOf returns a device's rate limit; nil: none.
func limitOf(mib, ops int) *limit {
	if mib == 0 && ops == 0 {
		return nil
	}
	l := &limit{}
	if mib > 0 {
		l.Bandwidth = &bucket{int64(mib) << 20, 1000}
	}
	if ops > 0 {
		l.Ops = &bucket{int64(ops), 1000}
	}
	return l
}

// kernelArgs returns the kernel's command line. A guest's power-off doesn't end
// Firecracker on x86, its reset does; drives get serials of Firecracker's own, so
// the guest is told their order; and probing for a keyboard's and a mouse's ports
// that aren't there takes a guest half a second (i8042, Firecracker's
// docs/prod-host-setup.md).
func kernelArgs(m banger.Machine) string {
	args := []string{
		"console=ttyS0", "quiet", "reboot=k", "panic=-1", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd",
		"banger.channel=vsock", "banger.reset=1",
	}
	if len(m.Drives) > 0 {
		var names []string
		for _, d := range m.Drives {
			names = append(names, d.Serial)
		}
		args = append(args, "banger.drives="+strings.Join(names, ","))
	}
	if m.Cmdline != "" {
		args = append(args, m.Cmdline)
	}
	return strings.Join(args, " ")
}

// launch is how a machine's VMM is started.
type launch struct {
	m        banger.Machine
	seen     banger.Machine // the machine with the paths that Firecracker sees
	argv     []string       // before Firecracker's other arguments
	where    string         // Firecracker's directory, relative to the machine's; empty: the same
	owner    int            // user id; 0: ours
	template snapshot       // to begin with; empty: boot
}

// free prepares a launch without a jail.
func free(m banger.Machine, binary string, from snapshot) (launch, error) {
	for i, d := range m.Drives {
		// Firecracker would only know it as drive.N.
		if _, err := os.Stat(d.Path); err != nil {
			return launch{}, fmt.Errorf("the drive %s of machine %s: %w", d.Serial, m.ID, err)
		}
		if err := os.Symlink(d.Path, filepath.Join(m.Dir, driveFile(i))); err != nil {
			return launch{}, err
		}
	}
	return launch{m, m, []string{binary, "--id", machine.Name(m.ID)}, "", 0, from}, nil
}

func (l launch) writeConfig() error {
	b, err := json.Marshal(describe(l.seen))
	if err != nil {
		return err
	}
	path := filepath.Join(l.m.Dir, l.where, configFile)
	err = os.WriteFile(path, b, 0o600)
	if err == nil && l.owner != 0 {
		err = os.Chown(path, l.owner, l.owner)
	}
	if err != nil {
		return fmt.Errorf("configuration of machine %s: %w", l.m.ID, err)
	}
	return nil
}

// shimConfig returns what the shim is told about the machine.
func (l launch) shimConfig() shim.Config {
	m := l.m
	in := func(name string) string { return filepath.Join(l.where, name) }
	argv := append(l.argv, "--api-sock", apiSocket, "--log-path", logPipe, "--level", "Warning", "--metrics-path", metricsPipe)
	// It listens there once it has opened kernel, disks and TAP. A request to its API before
	// that would end it with another error than the one that matters.
	up := vsockSocket
	if l.template.empty() {
		argv = append(argv, "--config-file", configFile)
	} else {
		up = apiSocket // which it is told the template by
	}
	c := shim.Config{
		ID: m.ID, Dir: m.Dir, Argv: argv, Channel: in(vsockSocket), Vsock: guestPort, Up: in(up),
		Pipes: []shim.Pipe{
			{Name: consolePipe, Log: shim.ConsoleFile, Console: true},
			{Name: in(logPipe), Log: shim.VMMLog, Owner: l.owner},
			{Name: in(metricsPipe), Log: metricsLog, Owner: l.owner},
		},
	}
	if c.Net = shim.UserNet(m.Net); c.Net != nil {
		c.Net.Tap, c.Net.Owner = ownTap, l.owner
	}
	return c
}
