package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and sizes of the KVM API on x86 (Documentation/virt/kvm/api.rst and
// arch/x86/include/uapi/asm/kvm.h).
const (
	kvmGetAPIVersion       = 0xAE00
	kvmCreateVM            = 0xAE01
	kvmGetVCPUMmapSize     = 0xAE04
	kvmGetSupportedCPUID   = 0xC008AE05
	kvmCreateVCPU          = 0xAE41
	kvmSetUserMemoryRegion = 0x4020AE46
	kvmSetTSSAddr          = 0xAE47
	kvmRun                 = 0xAE80
	kvmSetRegs             = 0x4090AE82
	kvmGetSregs            = 0x8138AE83
	kvmSetSregs            = 0x4138AE84
	kvmSetCPUID2           = 0x4008AE90

	apiVersion   = 12
	exitIO       = 2
	offImmediate = 1 // of immediate_exit in struct kvm_run
	offExit      = 8 // of exit_reason
)

// The guest's memory: one 2 MiB page, mapped to itself.
const (
	memSize = 2 << 20
	pml4    = 0x1000
	pdpt    = 0x2000
	pd      = 0x3000
	entry   = 0x8000
)

type memoryRegion struct {
	Slot, Flags                  uint32
	GuestPhys, Size, UserAddress uint64
}

type registers struct {
	General     [16]uint64 // RAX RBX RCX RDX RSI RDI RSP RBP R8 …
	RIP, RFLAGS uint64
}

type segment struct {
	Base                                 uint64
	Limit                                uint32
	Selector                             uint16
	Type, Present, DPL, DB, S, L, G, AVL uint8
	Unusable, _                          uint8
}

type table struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

type specialRegisters struct {
	CS              segment
	Data            [5]segment // DS ES FS GS SS
	TR, LDT         segment
	GDT, IDT        table
	CR0, CR2, CR3   uint64
	CR4, CR8        uint64
	EFER, APICBase  uint64
	InterruptBitmap [4]uint64
}

// cpuid is struct kvm_cpuid2 with room for more entries than any kernel has.
type cpuid struct {
	Entries, _ uint32
	Entry      [256][10]uint32
}

// vcpu is a machine with one CPU in long mode, about to run its code.
type vcpu struct {
	vm, cpu *os.File
	mem     []byte
	run     []byte // struct kvm_run, shared with the kernel
}

func newVCPU(dev *os.File, code []byte) (v *vcpu, err error) {
	version, err := ioctl(dev, kvmGetAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM version: %w", err)
	}
	if version != apiVersion {
		return nil, fmt.Errorf("KVM API version %d, want %d", version, apiVersion)
	}
	v = &vcpu{}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.vm, err = open(dev, kvmCreateVM, "vm"); err != nil {
		return nil, fmt.Errorf("create VM: %w", err)
	}
	if _, err := ioctl(v.vm, kvmSetTSSAddr, 0xfffbd000); err != nil { // Intel needs three pages that the guest doesn't use
		return nil, fmt.Errorf("set TSS address: %w", err)
	}
	if v.mem, err = unix.Mmap(-1, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("guest memory: %w", err)
	}
	put := func(at, value uint64) { binary.LittleEndian.PutUint64(v.mem[at:], value) }
	const present, writable, large = 1, 2, 1 << 7
	put(pml4, pdpt|present|writable)
	put(pdpt, pd|present|writable)
	put(pd, 0|present|writable|large)
	copy(v.mem[entry:], code)
	region := memoryRegion{Size: memSize, UserAddress: uint64(uintptr(unsafe.Pointer(&v.mem[0])))}
	if _, err := ioctl(v.vm, kvmSetUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return nil, fmt.Errorf("set guest memory: %w", err)
	}
	size, err := ioctl(dev, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return nil, fmt.Errorf("size of a vCPU: %w", err)
	}
	if v.cpu, err = open(v.vm, kvmCreateVCPU, "vcpu"); err != nil {
		return nil, fmt.Errorf("create vCPU: %w", err)
	}
	if v.run, err = unix.Mmap(int(v.cpu.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map vCPU: %w", err)
	}
	// The CPU's features must have long mode: else Linux 6.12 refuses registers for it.
	has := cpuid{Entries: uint32(len(cpuid{}.Entry))}
	if _, err := ioctl(dev, kvmGetSupportedCPUID, uintptr(unsafe.Pointer(&has))); err != nil {
		return nil, fmt.Errorf("what a vCPU may have: %w", err)
	}
	if _, err := ioctl(v.cpu, kvmSetCPUID2, uintptr(unsafe.Pointer(&has))); err != nil {
		return nil, fmt.Errorf("set what the vCPU has: %w", err)
	}
	return v, v.longMode()
}

// longMode sets what a kernel would: 64-bit code with paging on, flat segments.
func (v *vcpu) longMode() error {
	var s specialRegisters
	if _, err := ioctl(v.cpu, kvmGetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("get registers: %w", err)
	}
	const pe, mp, et, ne, wp, pg = 1, 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 31
	const pae, lme, lma = 1 << 5, 1 << 8, 1 << 10
	s.CR0, s.CR3, s.CR4, s.EFER = pe|mp|et|ne|wp|pg, pml4, pae, lme|lma
	s.CS = segment{Limit: ^uint32(0), Selector: 8, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := segment{Limit: ^uint32(0), Selector: 16, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.Data = [5]segment{data, data, data, data, data}
	if _, err := ioctl(v.cpu, kvmSetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("set special registers: %w", err)
	}
	r := registers{RIP: entry, RFLAGS: 2}
	if _, err := ioctl(v.cpu, kvmSetRegs, uintptr(unsafe.Pointer(&r))); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

// execute runs the code to its `out`, in a thread of its own, and returns the CPU time that
// took; waiting for a CPU doesn't count. For the errors see meter.
func (v *vcpu) execute(ctx context.Context, bound time.Duration) (time.Duration, error) {
	return meter(ctx, bound, v.loop, func(tid int) {
		// A signal ends KVM_RUN; the flag does if the signal comes between two calls. Go's runtime
		// ignores a SIGURG that it didn't send.
		v.run[offImmediate] = 1
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
	})
}

// errStuck means that KVM_RUN doesn't return. Then all that its thread uses must stay.
var errStuck = errors.New("the vCPU can't be interrupted")

func (v *vcpu) loop() error {
	for v.run[offImmediate] == 0 {
		_, err := ioctl(v.cpu, kvmRun, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("run vCPU: %w", err)
		}
		if reason := binary.LittleEndian.Uint32(v.run[offExit:]); reason != exitIO {
			return fmt.Errorf("the vCPU stopped for reason %d, want %d", reason, exitIO)
		}
		return nil
	}
	return errors.New("interrupted")
}

func (v *vcpu) close() {
	if v.run != nil {
		_ = unix.Munmap(v.run) // nothing depends on these: the probe is over
	}
	if v.cpu != nil {
		_ = v.cpu.Close()
	}
	if v.vm != nil {
		_ = v.vm.Close()
	}
	if v.mem != nil {
		_ = unix.Munmap(v.mem)
	}
}

func open(f *os.File, request uintptr, name string) (*os.File, error) {
	fd, err := ioctl(f, request, 0)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

func ioctl(f *os.File, request, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
