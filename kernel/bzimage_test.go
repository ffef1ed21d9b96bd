package debian_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/debian"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

func TestVmlinux(t *testing.T) {
	kernel := append(elfKernel(), bytes.Repeat([]byte("kernel"), 3<<19)...) // several LZ4 blocks
	sized := func(packed []byte) []byte {
		return binary.LittleEndian.AppendUint32(packed, uint32(len(kernel)))
	}
	legacy := binary.LittleEndian.AppendUint32(nil, 0x184C2102)
	for chunk := range slices.Chunk(kernel, 8<<20) {
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
		"elf":  kernel,
		"gzip": bzImage(gzipped(kernel)),
		"xz":   bzImage(sized(xzipped(kernel))),
		"zstd": bzImage(sized(zw.EncodeAll(kernel, nil))),
		"lz4":  bzImage(sized(legacy)),
	} {
		got, err := debian.Vmlinux(image)
		if err != nil || !bytes.Equal(got, kernel) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(kernel), err)
		}
	}
	lying := bzImage(binary.LittleEndian.AppendUint32(xzipped(kernel), 100))
	for name, image := range map[string][]byte{
		"cut": bzImage(gzipped(kernel))[:4000], "wrong size": lying, "empty": nil, "no kernel inside": bzImage(gzipped([]byte("hello"))),
		"unknown": bzImage([]byte("BZh91AY&SY0000")), "old": func() []byte { b := bzImage(gzipped(kernel)); b[0x206] = 7; b[0x207] = 2; return b }(),
	} {
		if _, err := debian.Vmlinux(image); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add(bzImage(gzipped(elfKernel())))
	f.Add(elfKernel())
	f.Add(bzImage([]byte("\x02\x21\x4c\x18\x05\x00\x00\x00\x40abcd\x04\x00\x00\x00")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if kernel, err := debian.Vmlinux(data); err == nil && !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
			t.Errorf("accepted a kernel that starts with % x", kernel[:4])
		}
	})
}

func FuzzDataTar(f *testing.F) {
	f.Add(goodDeb())
	f.Add(deb())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := debian.DataTar(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
			return
		}
	})
}

func FuzzFindKernel(f *testing.F) {
	f.Add("Package: linux-image-cloud-amd64\nDepends: linux-image-6.1-cloud-amd64 (= 1)\nSize: 1\nSHA256: " + strings.Repeat("0", 64) +
		"\n\nPackage: linux-image-6.1-cloud-amd64\nVersion: 1\nFilename: pool/x\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := debian.FindKernel(strings.NewReader(text), "linux-image-cloud-amd64")
		if err == nil && !filepath.IsLocal(p.Filename()) {
			t.Errorf("package outside the mirror: %q", p.Filename())
		}
	})
}
