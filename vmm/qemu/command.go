package qemu

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger"
	"banger/vmm/machine"
	"banger/vmm/shim"
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

// ramFile is the path of a machine's guest memory.
func ramFile(m banger.Machine) string { return filepath.Join(m.RAMDir, machine.Name(m.ID)+".ram") }

// quote escapes a value within QEMU's comma separated options.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// check refuses a machine that QEMU can't run.
func check(m banger.Machine) error {
	if m.Limits != (banger.Limits{}) {
		return banger.Errorf(banger.CodeInvalid, "QEMU machines have no rate limits").WithHint("make the VM with --hypervisor firecracker, or without limits")
	}
	return machine.Check(m, maxDrives, m.RAMDir)
}

// command returns the whole command line of the VMM. It is a function of the
// machine, the build, the host's facts, of which drives are block devices, and
// of start: what the guest begins with.
func (d *Driver) command(b build, m banger.Machine, start []string) ([]string, error) {
	accel, cpu := d.cpu(b, m)
	argv := slices.Concat(b.command, []string{
		"-name", machine.Name(m.ID),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", machineType, "-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(m.VCPU), "-m", fmt.Sprintf("%dM", m.MemoryMiB),
		"-chardev", "socket,id=monitor,server=on,wait=off,path=" + monitorSocket, "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=console,server=on,wait=off,path=" + consoleSocket, "-serial", "chardev:console",
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "socket,id=channel,server=on,wait=off,path=" + channelSocket, "-device", "virtserialport,chardev=channel,name=" + channelPort,
		"-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-device,rng=entropy",
	})
	argv = append(argv, start...)
	if b.Unconfined == "" {
		argv = append(argv, "-sandbox", sandbox)
	}
	for i, drive := range m.Drives {
		more, err := driveArgs(fmt.Sprintf("drive%d", i), drive)
		if err != nil {
			return nil, err
		}
		argv = append(argv, more...)
	}
	netdev := map[banger.NetMode]string{
		// Datagrams need no connection: frames flow again as soon as a new shim binds its path.
		banger.NetUser:   "dgram,id=net,local.type=unix,local.path=" + netOfVMM + ",remote.type=unix,remote.path=" + netOfShim,
		banger.NetBridge: "tap,id=net,script=no,downscript=no,ifname=" + quote(m.Net.Tap),
	}[m.Net.Mode]
	if netdev != "" {
		argv = append(argv, "-netdev", netdev, "-device", "virtio-net-device,netdev=net,mac="+quote(m.Net.MAC))
	}
	return argv, nil
}

// machineType is microvm (QEMU's docs/system/i386/microvm.rst) with the real-time clock that
// it leaves out under KVM. Without one, a kernel that reads it gets ones, takes them for an
// update in progress, and asks again 10,000 times, every 100 µs (Linux's
// drivers/rtc/rtc-mc146818-lib.c): that takes a second and 40,000 exits. It has no PIC and no
// PIT: as ACPI says reduced hardware here, kernels don't set them up, and then the PIT's
// interrupt can have vector 0, which is a division by zero. On QEMU 10.0 half the boots of a
// bare microvm panicked because of that.
const machineType = "microvm,rtc=on,pic=off,pit=off,memory-backend=ram"

// kvm reports whether a machine runs with KVM.
func (d *Driver) kvm(m banger.Machine) bool { return d.cfg.KVM && m.Isolation != banger.ByEmulation }

func (d *Driver) cpu(b build, m banger.Machine) (accel, model string) {
	if d.kvm(m) {
		return "kvm", "host"
	}
	accel = fmt.Sprintf("tcg,tb-size=%d", translatedMiB)
	if m.VCPU > 1 && !b.parallel() {
		accel += ",thread=single"
	}
	return accel, emulatedCPU
}

// translatedMiB bounds QEMU's cache of translated code. Without a bound (1 GiB) it is most of
// the memory of an emulated VM: it only grows, by 600 bytes for each block of guest code, and
// most blocks run once. When it is full QEMU empties it. Booting systemd and then packing
// /usr/share took 2.2 % to 8 % more CPU time with 64 MiB than without a bound, and 25 % with
// 32.
const translatedMiB = 64

// The guest's memory is a file. Shared, the guest writes to the file; else to a copy of a
// page.
const (
	memoryPath    = ",mem-path="
	memoryShared  = ",share=on"
	memoryPrivate = ",share=off"
)

func memoryArgs(m banger.Machine, path, share string) []string {
	return []string{"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM", m.MemoryMiB) + memoryPath + quote(path) + share}
}

// emulatedCPU is the CPU of guests without KVM. With "max", other than with QEMU's default
// model, programs built for x86-64-v3 run, and the local timer works in every sleep state
// (ARAT); without that the kernel has no high-resolution timers, and a sleep of 1 ms takes 4.
// Five-level paging is off as it makes page walks longer, and nested guests as they would be
// far too slow. With ERMS or FSRM Linux copies and clears memory by "rep movsb" and "rep
// stosb", which QEMU emulates byte by byte; else eight bytes at a time.
const emulatedCPU = "max,la57=off,svm=off,erms=off,fsrm=off"

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

// kernelArgs returns the kernel's command line. An emulated guest reads the host's time stamp
// counter. The kernel is told its rate, since calibrating it against an emulated timer hangs
// on a busy host. And programs are mapped at the same addresses each time (norandmaps): at
// other addresses QEMU would translate them anew, 2,500 blocks for /bin/true instead of 100.
// Commands would take four to five times as long, and the cache of translated code would soon
// be full (docs/lab/benchmarks.md).
func (d *Driver) kernelArgs(m banger.Machine) string {
	args := []string{"console=ttyS0", "quiet", "reboot=t", "panic=-1"}
	if !d.kvm(m) {
		args = append(args, "norandmaps")
	}
	if !d.kvm(m) && d.cfg.TSCKHz > 0 {
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
	if c.Net = shim.UserNet(m.Net); c.Net != nil {
		c.Net.Local, c.Net.Remote = netOfVMM, netOfShim
	}
	return c
}
