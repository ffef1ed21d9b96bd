package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"banger/fetch/xz"
)

// maxVmlinux bounds a decompressed kernel, in bytes. Debian's has 30 to 60 MiB.
const maxVmlinux = 512 << 20

// maxWindow bounds a decompressor's memory, in bytes: the kernel's build uses up to
// 128 MiB (zstd --ultra -22).
const maxWindow = 128 << 20

// Fields of the setup header, by offset in the file
// (Documentation/arch/x86/boot.rst, protocol 2.08 for the payload's).
const (
	setupSects    = 0x1F1 // sectors of real-mode code after the first; 0 means 4
	bootFlag      = 0x1FE // 0xAA55
	headerMagic   = 0x202 // "HdrS"
	bootProtocol  = 0x206
	payloadOffset = 0x248 // from the start of the protected-mode code
	payloadLength = 0x24C
	headerEnd     = 0x250
)

// Vmlinux returns the ELF kernel inside a bzImage; an ELF kernel is returned
// as it is. Firecracker takes no other form and emulation boots it faster.
func Vmlinux(image []byte) ([]byte, error) {
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		return image, checkKernel(image)
	}
	payload, err := bzPayload(image)
	if err != nil {
		return nil, err
	}
	kernel, err := decompress(payload)
	if err != nil {
		return nil, fmt.Errorf("kernel payload: %w", err)
	}
	return kernel, checkKernel(kernel)
}

func bzPayload(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[headerMagic:headerMagic+4]) != "HdrS" ||
		binary.LittleEndian.Uint16(image[bootFlag:]) != 0xAA55 {
		return nil, errors.New("neither an ELF file nor a bzImage")
	}
	if v := binary.LittleEndian.Uint16(image[bootProtocol:]); v < 0x208 {
		return nil, fmt.Errorf("boot protocol %d.%02d is too old: from 2.08 on it says where the kernel is", v>>8, v&0xFF)
	}
	sectors := uint64(image[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if start >= end || end > uint64(len(image)) {
		return nil, fmt.Errorf("payload of bytes %d to %d in a file of %d", start, end, len(image))
	}
	return image[start:end], nil
}

// decompress decompresses a payload. The kernel's build appends the decompressed size
// as a 32-bit number, except with gzip, whose own trailer has it.
func decompress(payload []byte) ([]byte, error) {
	if bytes.HasPrefix(payload, []byte{0x1F, 0x8B}) {
		r, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return readAtMost(r, maxVmlinux)
	}
	if len(payload) < 8 {
		return nil, errors.New("too short")
	}
	packed, trailer := payload[:len(payload)-4], payload[len(payload)-4:]
	size := int64(binary.LittleEndian.Uint32(trailer))
	if size > maxVmlinux {
		return nil, fmt.Errorf("decompressed it would have %d bytes, at most %d are allowed", size, maxVmlinux)
	}
	kernel, err := decompressSized(packed, size)
	if err == nil && int64(len(kernel)) != size {
		err = fmt.Errorf("%d bytes, it says %d", len(kernel), size)
	}
	return kernel, err
}

func decompressSized(packed []byte, size int64) ([]byte, error) {
	switch {
	case binary.LittleEndian.Uint32(packed) == lz4Legacy:
		return unpackLZ4(packed[4:], size)
	case bytes.HasPrefix(packed, []byte{0x28, 0xB5, 0x2F, 0xFD}):
		r, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readAtMost(r, size)
	case bytes.HasPrefix(packed, []byte(xz.Magic)):
		r, err := xz.NewReader(bytes.NewReader(packed), maxWindow)
		if err != nil {
			return nil, fmt.Errorf("xz, whose x86 filter isn't supported: %w", err)
		}
		return readAtMost(r, size)
	}
	return nil, fmt.Errorf("unknown compression, starts with % x", packed[:4])
}

// lz4Legacy is the magic number of the only LZ4 frame that the kernel's build uses:
// blocks of at most 8 MiB when decompressed, each after its compressed length
// (LZ4 Frame Format, "Legacy frame").
const (
	lz4Legacy   = 0x184C2102
	lz4MaxBlock = 8 << 20
)

func unpackLZ4(packed []byte, size int64) ([]byte, error) {
	// Don't allocate by the size, which may be wrong: take memory block by block.
	var kernel []byte
	block := make([]byte, lz4MaxBlock)
	for len(packed) > 0 {
		if len(packed) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := uint64(binary.LittleEndian.Uint32(packed))
		if packed = packed[4:]; n > uint64(len(packed)) {
			return nil, io.ErrUnexpectedEOF
		}
		done, err := lz4.UncompressBlock(packed[:n], block)
		if err != nil {
			return nil, err
		}
		if int64(len(kernel)+done) > size {
			return nil, fmt.Errorf("more than the %d bytes it says", size)
		}
		kernel, packed = append(kernel, block[:done]...), packed[n:]
	}
	return kernel, nil
}

// checkKernel makes sure that a hypervisor can load the kernel. A bad one would give a
// VM without any message.
func checkKernel(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Entry == 0 {
		return fmt.Errorf("kernel: %v %v with entry point %#x, not a bootable x86-64 one", f.Class, f.Machine, f.Entry)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && (p.Off > uint64(len(data)) || p.Filesz > uint64(len(data))-p.Off) {
			return fmt.Errorf("kernel: a segment ends beyond the file's %d bytes", len(data))
		}
	}
	return nil
}

func readAtMost(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("more than %d bytes", max)
	}
	return data, err
}
