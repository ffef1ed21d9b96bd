package qemu

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/shim"
)

// Names in a VM's directory. QEMU runs with it as working directory, so the
// paths of its sockets stay below the kernel's 107 bytes.
const (
	monitorSocket = "qmp.sock"
	channelSocket = "chan.sock"
	consoleSocket = "console.sock"
	netOfVMM      = "net-vmm.sock"
	netOfShim     = "net-shim.sock"
)

// sockets lists what a dead QEMU leaves in the VM's directory.
var sockets = []string{monitorSocket, channelSocket, consoleSocket, netOfVMM, netOfShim}

// channelPort names the virtio-serial port the agent speaks on.
const channelPort = "banger.agent"

// maxDrives leaves room for the other devices: microvm has 8 virtio-mmio slots.
const maxDrives = 5

// vmName is the -name of a machine: what makes a QEMU process this VM's.
func vmName(id string) string { return "banger-" + id }

// ramFile is the path of a machine's guest memory.
func ramFile(m banger.Machine) string { return filepath.Join(m.RAMDir, vmName(m.ID)+".ram") }

// quote escapes a value within QEMU's comma separated options.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// check refuses a machine that QEMU couldn't be told about.
func check(m banger.Machine) error {
	switch {
	case m.ID == "" || strings.ContainsFunc(m.ID, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", r) }):
		return banger.Errorf(banger.CodeInvalid, "machine id %q isn't made of lower-case letters, digits and hyphens", m.ID)
	case m.VCPU < 1 || m.VCPU > banger.MaxVCPU:
		return banger.Errorf(banger.CodeInvalid, "%d vCPUs are out of bounds: 1 to %d", m.VCPU, banger.MaxVCPU)
	case m.MemoryMiB < banger.MinMemoryMiB || m.MemoryMiB > banger.MaxMemoryMiB:
		return banger.Errorf(banger.CodeInvalid, "%d MiB of memory are out of bounds: %d to %d", m.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB)
	case len(m.Drives) > maxDrives:
		return banger.Errorf(banger.CodeInvalid, "%d drives, at most %d fit", len(m.Drives), maxDrives)
	}
	if m.Limits != (banger.Limits{}) {
		return banger.Errorf(banger.CodeInvalid, "QEMU machines have no rate limits").WithHint("make the VM with --hypervisor firecracker, or without limits")
	}
	if m.Net.Mode == banger.NetBridge && m.Net.Tap == "" {
		// QEMU would make one of its own.
		return banger.Errorf(banger.CodeInvalid, "machine %s: a bridge network without a TAP device", m.ID)
	}
	for _, p := range []string{m.Dir, m.RAMDir, m.Kernel, m.Initramfs} {
		if !filepath.IsAbs(p) {
			return banger.Errorf(banger.CodeInvalid, "machine %s: path %q isn't absolute", m.ID, p)
		}
	}
	for _, d := range m.Drives {
		if d.Serial == "" || len(d.Serial) > 20 || !filepath.IsAbs(d.Path) {
			return banger.Errorf(banger.CodeInvalid, "machine %s: drive %q of %q: want a serial of 1 to 20 bytes and an absolute path", m.ID, d.Serial, d.Path)
		}
	}
	return nil
}

// command returns the whole command line of the VMM. It is a function of the
// machine, the build, the host's facts, of which drives are block devices, and
// of begin: what the guest begins with.
func (d *Driver) command(b build, m banger.Machine, begin []string) ([]string, error) {
	accel, cpu := d.cpu(b, m)
	argv := []string{
		b.Path, "-name", vmName(m.ID),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", machineType, "-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(m.VCPU), "-m", fmt.Sprintf("%dM", m.MemoryMiB),
		"-chardev", "socket,id=monitor,server=on,wait=off,path=" + monitorSocket, "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=console,server=on,wait=off,path=" + consoleSocket, "-serial", "chardev:console",
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "socket,id=channel,server=on,wait=off,path=" + channelSocket, "-device", "virtserialport,chardev=channel,name=" + channelPort,
		"-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-device,rng=entropy",
	}
	argv = append(argv, begin...)
	if b.Sandbox {
		argv = append(argv, "-sandbox", sandbox)
	}
	for i, drive := range m.Drives {
		more, err := driveArgs(fmt.Sprintf("drive%d", i), drive)
		if err != nil {
			return nil, err
		}
		argv = append(argv, more...)
	}
	if m.Net.Mode == banger.NetUser {
		// Datagrams know no connection: a new shim binds its path and frames flow on.
		argv = append(argv,
			"-netdev", "dgram,id=net,local.type=unix,local.path="+netOfVMM+",remote.type=unix,remote.path="+netOfShim,
			"-device", "virtio-net-device,netdev=net,mac="+quote(m.Net.MAC))
	}
	if m.Net.Mode == banger.NetBridge {
		argv = append(argv,
			"-netdev", "tap,id=net,script=no,downscript=no,ifname="+quote(m.Net.Tap),
			"-device", "virtio-net-device,netdev=net,mac="+quote(m.Net.MAC))
	}
	return argv, nil
}

// machineType is microvm (QEMU's docs/system/i386/microvm.rst) with the clock that it
// leaves out under KVM. Without one a kernel reads ones where it looks for it, takes
// them for an update in progress, and asks 10,000 times, 100 µs apart, whether that is
// over (Linux's drivers/rtc/rtc-mc146818-lib.c): a second, and 40,000 exits. It has no
// PIC and no PIT: kernels don't set them up here, where ACPI says reduced hardware, and
// then that timer's interrupt can be their vector 0, a division by zero. On QEMU 10.0
// half the boots of a bare microvm panicked of it.
const machineType = "microvm,rtc=on,pic=off,pit=off,memory-backend=ram"

func (d *Driver) cpu(b build, m banger.Machine) (accel, model string) {
	if d.cfg.KVM {
		return "kvm", "host"
	}
	accel = fmt.Sprintf("tcg,tb-size=%d", translatedMiB)
	if m.VCPU > 1 && !b.parallel() {
		accel += ",thread=single"
	}
	return accel, emulatedCPU
}

// translatedMiB bounds QEMU's cache of translated code. Unbounded (1 GiB) it is
// most of what an emulated VM costs: it only grows, by 600 bytes a block of guest
// code, most of which runs once. When it is full QEMU begins anew with what is in
// use. Booting systemd and then packing /usr/share took 2.2 % to 8 % more CPU time
// with 64 MiB than without a bound, and 25 % with 32.
const translatedMiB = 64

// memoryArgs describes the guest's memory: the file at path, written through
// with share "on", copied on the first write with "off".
func memoryArgs(m banger.Machine, path, share string) []string {
	return []string{"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s", m.MemoryMiB, quote(path), share)}
}

// emulatedCPU is what guests see without KVM. "max" over QEMU's default model:
// programs built for x86-64-v3 run, and the local timer works in every sleep
// state (ARAT), without which the kernel has no high-resolution timers and a
// sleep of 1 ms takes 4. Five-level paging only makes each page walk longer, and
// a guest in a guest would crawl.
const emulatedCPU = "max,la57=off,svm=off"

// driveArgs describes one virtio-blk device. A guest's flush is an fdatasync
// here (write-cache on, no-flush off); its discards punch holes; a host file
// that can't be written is an I/O error in the guest, where QEMU's default
// would stop the machine in silence; two machines can't open one disk.
func driveArgs(id string, d banger.Drive) ([]string, error) {
	st, err := os.Stat(d.Path)
	if err != nil {
		return nil, fmt.Errorf("drive %s: %w", d.Serial, err)
	}
	protocol := "file"
	if st.Mode()&fs.ModeDevice != 0 {
		protocol = "host_device"
	}
	readOnly := "off"
	if d.ReadOnly {
		readOnly = "on"
	}
	return []string{
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=%s,discard=unmap,cache.direct=off,cache.no-flush=off,file.driver=%s,file.locking=on,file.filename=%s", id, readOnly, protocol, quote(d.Path)),
		"-device", fmt.Sprintf("virtio-blk-device,drive=%s,serial=%s,write-cache=on,werror=report,rerror=report", id, quote(d.Serial)),
	}, nil
}

// kernelArgs returns the kernel's command line. Emulated, the guest reads the
// host's time stamp counter; told its rate, the kernel needn't calibrate it
// against an emulated timer, on which it hangs when the host is busy. And its
// programs lie at the same addresses each time: at others QEMU translates them
// anew, 2,500 blocks for /bin/true and 100 where it is known; commands take four to
// five times as long, and the cache of translations is soon full (docs/benchmarks.md).
func (d *Driver) kernelArgs(m banger.Machine) string {
	args := []string{"console=ttyS0", "quiet", "reboot=t", "panic=-1"}
	if !d.cfg.KVM {
		args = append(args, "norandmaps")
	}
	if !d.cfg.KVM && d.cfg.TSCKHz > 0 {
		args = append(args, fmt.Sprintf("tsc_early_khz=%d", d.cfg.TSCKHz), "tsc=reliable")
	}
	if m.Cmdline != "" {
		args = append(args, m.Cmdline)
	}
	return strings.Join(args, " ")
}

// shimConfig returns what the shim is told about a machine.
func shimConfig(m banger.Machine, argv []string) shim.Config {
	c := shim.Config{ID: m.ID, Dir: m.Dir, Argv: argv, Channel: channelSocket, Console: consoleSocket}
	if m.Net.Mode == banger.NetUser {
		c.Net = &shim.NetConfig{
			MAC: m.Net.MAC, Address: m.Net.Address, Gateway: m.Net.Gateway, DNS: m.Net.DNS,
			Local: netOfVMM, Remote: netOfShim,
		}
	}
	return c
}
