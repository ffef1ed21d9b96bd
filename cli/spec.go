package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// specFlags are the flags that describe a new VM. For those not given the daemon has
// defaults.
type specFlags struct {
	name, image, kernel, net string
	on                       runsOn
	vcpu                     count
	memory, disk             size
	limits                   banger.Limits
	publish                  publishFlags
	pull                     pullFlags
	labels                   labels
	ttl, idle                time.Duration
}

func (f *specFlags) addFlags(a *App, cmd *cobra.Command) {
	f.labels = labels{}
	f.memory, f.disk = size{unit: 1}, size{unit: 1024}
	fs, c := cmd.Flags(), settings(a)
	fs.StringVar(&f.name, "name", "", "the VM's name (default: two words)")
	fs.StringVar(&f.image, "image", "", defaulted("the image it is made of: one of this host, or of a registry, as docker names it", c.DefaultImage))
	f.pull.add(fs)
	f.on.init = "auto"
	fs.Var(&f.on.init, "init", `what its first process becomes: "image" (the image's init), "agent" (nothing of the image starts by itself), or "auto" (the image's init if it has one)`)
	fs.StringVar(&f.kernel, "kernel", "", defaulted("the kernel it boots", c.DefaultKernel))
	fs.Var(&f.vcpu, "vcpu", defaulted("virtual CPUs; also --cpus", cpus(c.VCPU)))
	fs.VarP(&f.memory, "memory", "m", defaulted("memory: 512M, 2G; a bare number is MiB", memory(c.MemoryMiB)))
	fs.Var(&f.disk, "disk-size", defaulted("its own disk: 10G, 512M; a bare number is GiB", formatMiB(c.DiskMiB)))
	fs.StringVar(&f.net, "net", "", defaulted(`network: "user", "none", or "bridge" (a daemon that runs as root)`, c.Net))
	f.publish.add(fs)
	f.on.addFlags(cmd)
	fs.IntVar(&f.limits.DiskMiB, "disk-rate", 0, "MiB a second that each of its disks may read and write (Firecracker only; default: no limit)")
	fs.IntVar(&f.limits.DiskOps, "disk-ops", 0, "requests a second that each of its disks may serve (Firecracker only; default: no limit)")
	fs.IntVar(&f.limits.NetMiB, "net-rate", 0, "MiB a second that it may send, and as many that it may receive (Firecracker only; default: no limit)")
	fs.VarP(f.labels, "label", "l", "label it with KEY=VALUE, for ps --filter label=KEY (repeatable)")
	fs.Var((*seconds)(&f.ttl), "ttl", "stop it when it has run for this time: 2h, 90m; with --rm, delete it then (default: never)")
	fs.Var((*seconds)(&f.idle), "idle-stop", "stop it after this time without a client, a command or load: 30m (default: auto_stop_stale_after of config.toml)")
	fs.BoolVar(&f.on.cold, "cold", false, "boot it, now and later, instead of restoring it from a template")
	fs.BoolVar(&f.on.insecure, "insecure-vmm", false, "run its VMM without a sandbox if this host has none: a guest that breaks out then has all your rights")
	_ = cmd.RegisterFlagCompletionFunc("image", a.completeImages) // fails for an unknown flag only
	_ = cmd.RegisterFlagCompletionFunc("kernel", a.completeKernels)
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{"user", "none", "bridge"}, cobra.ShellCompDirectiveNoFileComp))
}

// runsOn are the flags that say what a VM runs on.
type runsOn struct {
	isolation, hypervisor string
	init                  initFlag
	cold, insecure        bool // of a new VM
}

func (f *runsOn) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.isolation, "isolation", "", `what separates it from this host: "hardware" (KVM), "process" (User-mode Linux in a jail), "emulated" (QEMU without KVM), or "auto" (default what "banger doctor" says)`)
	fs.StringVar(&f.hypervisor, "hypervisor", "", `hypervisor: "firecracker", "qemu" or "uml" (default what fits its isolation)`)
	_ = cmd.RegisterFlagCompletionFunc("isolation", cobra.FixedCompletions([]string{"auto", "hardware", "process", "emulated"}, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
	_ = cmd.RegisterFlagCompletionFunc("hypervisor", cobra.FixedCompletions([]string{"firecracker", "qemu", "uml"}, cobra.ShellCompDirectiveNoFileComp))
}

// given is what they name; "auto" names nothing, as in config.toml.
func (f *runsOn) given() (banger.Isolation, string) {
	name := func(flag string) string {
		if flag == "auto" {
			return ""
		}
		return flag
	}
	return banger.Isolation(name(f.isolation)), name(f.hypervisor)
}

func (f *specFlags) spec(a *App) (banger.Spec, error) {
	s := banger.Spec{
		Name: f.name, Image: f.image, Kernel: f.kernel,
		VCPU: int(f.vcpu), MemoryMiB: f.memory.mib, DiskMiB: f.disk.mib, Net: banger.NetMode(f.net), Limits: f.limits, Cold: f.on.cold, Insecure: f.on.insecure, Labels: f.labels,
		NoInit: f.on.init == "agent", NeedInit: f.on.init == "image",
		TTLMS: f.ttl.Milliseconds(), IdleStopMS: f.idle.Milliseconds(),
	}
	s.Isolation, s.Hypervisor = f.on.given()
	var err error
	if s.Ports, err = f.publish.list(); err != nil {
		return s, err
	}
	if s.Net != "" && s.Net != banger.NetUser && s.Net != banger.NetNone && s.Net != banger.NetBridge {
		return s, banger.Errorf(banger.CodeInvalid, "--net %s: want user, bridge or none", f.net)
	}
	if s.MemoryMiB > 0 && s.MemoryMiB < banger.MinMemoryMiB {
		return s, banger.Errorf(banger.CodeInvalid, "--memory %s: a VM needs %s at least", formatMiB(s.MemoryMiB), formatMiB(banger.MinMemoryMiB)).
			WithHint("a bare number is MiB: did you mean --memory %dG?", s.MemoryMiB)
	}
	if f.on.insecure {
		a.note("WARNING: --insecure-vmm: a guest that breaks out of a VMM without a sandbox has all your rights")
	}
	return s, nil
}

// count is a flag's number, at least 1; zero when the flag wasn't given.
type count int

// Set implements pflag.Value.
func (c *count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%q isn't a whole number from 1 on", text)
	}
	*c = count(n)
	return nil
}

// String implements pflag.Value.
func (c *count) String() string {
	if *c == 0 {
		return ""
	}
	return strconv.Itoa(int(*c))
}

// Type implements pflag.Value.
func (c *count) Type() string { return "int" }

// size is a flag's amount of memory or disk, in MiB.
type size struct {
	mib  int
	unit int // what a number without a unit counts, in MiB
}

// Set parses 512M, 2g, 1.5GiB, 1T, or a bare number of the flag's unit.
func (s *size) Set(text string) error {
	digits := strings.ToUpper(strings.ReplaceAll(text, " ", ""))
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "B"), "I") // 512MB, 512MiB
	unit := s.unit
	if n := len(digits) - 1; n >= 0 {
		if u, ok := map[byte]int{'M': 1, 'G': 1 << 10, 'T': 1 << 20}[digits[n]]; ok {
			unit, digits = u, digits[:n]
		}
	}
	n, err := strconv.ParseFloat(digits, 64)
	mib := n * float64(unit)
	if err != nil || !(mib >= 1 && mib < 1<<40) || mib != float64(int(mib)) {
		return fmt.Errorf("%q isn't a size: write whole MiB or GiB, such as 512M or 2G", text)
	}
	s.mib = int(mib)
	return nil
}

// String implements pflag.Value.
func (s *size) String() string {
	if s.mib == 0 {
		return ""
	}
	return formatMiB(s.mib)
}

// Type implements pflag.Value.
func (s *size) Type() string { return "size" }

// cpus is the default number of virtual CPUs in words.
func cpus(n int) string {
	if n == 0 {
		return "with KVM all of this host's up to 4; 1 with isolation process; emulated 2, or 1 where QEMU emulates them one at a time"
	}
	return strconv.Itoa(n)
}

// memory is the default amount of memory in words.
func memory(mib int) string {
	if mib == 0 {
		return "an eighth of this host's, 512M to 4G"
	}
	return formatMiB(mib)
}

// seconds is a flag's duration: 30s, 5m, or a bare number of seconds.
type seconds time.Duration

// Set implements pflag.Value.
func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a duration: 30, 30s, 5m", text)
	}
	*s = seconds(d)
	return nil
}

// String implements pflag.Value.
func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

// Type implements pflag.Value.
func (s *seconds) Type() string { return "duration" }
