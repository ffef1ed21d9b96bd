package kernel_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/kernel"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

func TestVmlinux(t *testing.T) {
	vmlinux := append(elfKernel(), bytes.Repeat([]byte("kernel"), 3<<19)...) // several LZ4 blocks
	sized := func(packed []byte) []byte {
		return binary.LittleEndian.AppendUint32(packed, uint32(len(vmlinux)))
	}
	legacy := binary.LittleEndian.AppendUint32(nil, 0x184C2102)
	for chunk := range slices.Chunk(vmlinux, 8<<20) {
		block := make([]byte, lz4.CompressBlockBound(len(chunk)))
		n, err := lz4.CompressBlock(chunk, block, nil)
		if err != nil {
			t.Fatal(err)
		}
		legacy = append(binary.LittleEndian.AppendUint32(legacy, uint32(n)), block[:n]...)
	}
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string][]byte{
		"elf":  vmlinux,
		"gzip": bzImage(gzipped(vmlinux)),
		"xz":   bzImage(sized(xzipped(vmlinux))),
		"zstd": bzImage(sized(zw.EncodeAll(vmlinux, nil))),
		"lz4":  bzImage(sized(legacy)),
	} {
		got, err := kernel.Vmlinux(image)
		if err != nil || !bytes.Equal(got, vmlinux) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(vmlinux), err)
		}
	}
	lying := bzImage(binary.LittleEndian.AppendUint32(xzipped(vmlinux), 100))
	for name, image := range map[string][]byte{
		"cut": bzImage(gzipped(vmlinux))[:4000], "wrong size": lying, "empty": nil, "no kernel inside": bzImage(gzipped([]byte("hello"))),
		"unknown": bzImage([]byte("BZh91AY&SY0000")), "old": func() []byte { b := bzImage(gzipped(vmlinux)); b[0x206] = 7; b[0x207] = 2; return b }(),
	} {
		if _, err := kernel.Vmlinux(image); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add(bzImage(gzipped(elfKernel())))
	f.Add(elfKernel())
	f.Add(bzImage([]byte("\x02\x21\x4c\x18\x05\x00\x00\x00\x40abcd\x04\x00\x00\x00")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := kernel.Vmlinux(data); err == nil && !bytes.HasPrefix(got, []byte("\x7fELF")) {
			t.Errorf("accepted a kernel that starts with % x", got[:4])
		}
	})
}

func FuzzFindKernel(f *testing.F) {
	f.Add("Package: linux-image-cloud-amd64\nDepends: linux-image-6.1-cloud-amd64 (= 1)\nFilename: pool/y\nSize: 1\nSHA256: " + strings.Repeat("0", 64) +
		"\n\nPackage: linux-image-6.1-cloud-amd64\nVersion: 1\nFilename: pool/x\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		path, err := kernel.FindKernel(text)
		if err == nil && !filepath.IsLocal(path) {
			t.Errorf("package outside the mirror: %q", path)
		}
	})
}
