package diskfile_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"banger"
)

var writeEmpty = flag.Bool("write-empty", false, "have mke2fs make the filesystems in empty/")

// mkfsArgs makes a filesystem that is small as a file and quick to grow. All features are
// named ("none" clears those of mke2fs.conf), and any kernel since 4.x mounts them.
//
//   - meta_bg without resize_inode: descriptors of added groups are stored in those
//     groups, so no reserve can become too small; 64bit for sums beyond 16 TiB.
//   - metadata_csum allows groups whose bitmaps and inode tables were never
//     written: growing writes descriptors only. Measured in an emulated guest:
//     0.08 s to 16 GiB, 0.3 s to 64 GiB, 4 s to 1 TiB, e2fsck clean.
//   - flex groups of 64 take a third off the growth to 1 TiB against 16.
//   - a journal of 16 MiB, since it can't grow later: a filesystem this small would get
//     4 MiB, which is too slow once it is large. It is sparse until used.
//   - one inode per 16 KiB, ext4's usual: source trees are small files.
//   - the root directory belongs to root, whoever runs mke2fs; no blocks are reserved for
//     root, as all programs in the guest may be root's.
var mkfsArgs = []string{
	"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-G", "64", "-m", "0", "-J", "size=16", "-L", "banger",
	"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,meta_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
	"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed=62616e67-6572-4000-8000-000000000000",
	"-U", "62616e67-6572-4000-8000-000000000001",
}

func mkfs(t *testing.T, sizeMiB int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ext4")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, int64(sizeMiB)<<20)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(needTool(t, "mke2fs"), append(mkfsArgs, "--", path)...)
	cmd.Env = []string{"LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "E2FSPROGS_FAKE_TIME=1764547200"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return path
}

// The filesystems that disks begin as are what mke2fs makes.
func TestEmptyIsMke2fs(t *testing.T) {
	dumpe2fs := needTool(t, "dumpe2fs")
	for _, size := range []int{banger.MinDiskMiB, 10 << 10} {
		made := mkfs(t, size)
		if *writeEmpty {
			if err := os.WriteFile(fmt.Sprintf("empty/%d.gz", size), pack(t, made), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		ours, err := newDisks(t).Create(t.Context(), t.TempDir(), size)
		if err != nil {
			t.Fatal(err)
		}
		var shown [2]string
		for i, path := range []string{made, ours} {
			out, err := exec.Command(dumpe2fs, path).Output()
			if err != nil {
				t.Fatal(err)
			}
			// What is to differ: the secret, and the checksum of the superblock that it is in.
			shown[i] = regexp.MustCompile(`(?m)^(Directory Hash Seed|Checksum|Lifetime writes):.*\n`).ReplaceAllString(string(out), "")
		}
		if shown[0] != shown[1] {
			t.Errorf("%d MiB: mke2fs makes\n%s\nours is\n%s", size, shown[0], shown[1])
		}
	}
}

// Two hosts have two secrets, and both filesystems are whole: checksums, copies of the superblock.
func TestEverySecretIsNew(t *testing.T) {
	seed := regexp.MustCompile(`Directory Hash Seed: +(.*)`)
	seen := map[string]bool{}
	for range 2 {
		path, err := newDisks(t).Create(t.Context(), t.TempDir(), 10<<10)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(needTool(t, "e2fsck"), "-fn", path).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		// Of the copies, which repairs rely on, too: dumpe2fs checks their sums.
		var secrets []string
		for _, super := range []string{"0", "32768", "98304", "1605632"} {
			args := []string{"-h", "-o", "superblock=" + super, "-o", "blocksize=4096", path}
			if super == "0" {
				args = []string{"-h", path}
			}
			out, err := exec.Command(needTool(t, "dumpe2fs"), args...).CombinedOutput()
			if err != nil {
				t.Fatalf("superblock at block %s: %v\n%s", super, err, out)
			}
			secrets = append(secrets, string(seed.FindSubmatch(out)[1]))
		}
		if secrets = slices.Compact(secrets); len(secrets) != 1 {
			t.Errorf("the superblocks have several secrets: %v", secrets)
		}
		seen[secrets[0]] = true
	}
	if len(seen) != 2 || seen["62616e67-6572-4000-8000-000000000000"] {
		t.Errorf("the secrets of two hosts: %v", seen)
	}
}

// pack writes a filesystem as empty/ has it.
func pack(t *testing.T, path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	block, zeros := make([]byte, 4096), make([]byte, 4096)
	for n := uint32(0); ; n++ {
		if _, err := io.ReadFull(f, block); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(block, zeros) {
			_ = binary.Write(w, binary.LittleEndian, n)
			_, _ = w.Write(block)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
