package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger/image/rootfs"
)

// importStdin, in the environment, makes this test binary an import of its
// standard input that reports its memory: a process of its own is measured whole.
const importStdin = "ROOTFS_TEST_IMPORT_INTO"

func TestMain(m *testing.M) {
	dir := os.Getenv(importStdin)
	if dir == "" {
		os.Exit(m.Run())
	}
	store := &rootfs.Store{Dir: dir}
	img, err := store.Import(context.Background(), os.Stdin, nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var peak int
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	fmt.Println(img.ID, img.Size, img.Entries, peak<<10, mem.HeapSys)
}

// measure imports a stream in a process of its own.
func measure(t *testing.T, stream io.Reader) (image string, entries int) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), importStdin+"="+dir)
	cmd.Stdin = stream
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var id string
	var size, peak, heap int64
	if _, err := fmt.Sscan(string(out), &id, &size, &entries, &peak, &heap); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	t.Logf("image of %d MiB, %d entries: peak RSS %d MiB, HeapSys %d MiB", size>>20, entries, peak>>20, heap>>20)
	if peak > 150<<20 || heap > 150<<20 {
		t.Errorf("peak RSS %d, HeapSys %d, at most 150 MiB", peak, heap)
	}
	return filepath.Join(dir, id+".erofs"), entries
}

// Memory doesn't depend on sizes: 8 GiB of holes and 1 GiB of zeros really sent.
func TestMemoryOfLargeFiles(t *testing.T) {
	needs(t, true, "tar", "mount", "fsck.erofs")
	if testing.Short() {
		t.Skip("reads 9 GiB")
	}
	dir := t.TempDir()
	sizes := map[string]int64{"plain": 1 << 30, "sparse": 8 << 30}
	for name, size := range sizes {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err, f.Truncate(size))
		for _, at := range []int64{0, size / 3, size - 3} {
			_, err := f.WriteAt([]byte("end"), at)
			must(t, err)
		}
		must(t, f.Close())
	}
	plain := exec.Command("tar", "-c", "-C", dir, "plain")
	pipe, err := plain.StdoutPipe()
	must(t, err, plain.Start())
	sparse, err := exec.Command("tar", "-cS", "-C", dir, "sparse").Output()
	must(t, err)
	// One archive of both: the first's end mark and padding are its last 10 KiB at most.
	image, _ := measure(t, io.MultiReader(io.LimitReader(pipe, 512+sizes["plain"]), bytes.NewReader(sparse)))
	_, err = io.Copy(io.Discard, pipe)
	must(t, err, plain.Wait())
	m := t.TempDir()
	run(t, "mount", "-t", "erofs", "-o", "loop,ro", image, m)
	t.Cleanup(func() { run(t, "umount", m) })
	for name, size := range sizes {
		f, err := os.Open(filepath.Join(m, name))
		must(t, err)
		for _, at := range []int64{0, size / 3, size - 3} {
			b := make([]byte, 5)
			n, _ := f.ReadAt(b, at)
			if got := strings.TrimRight(string(b[:n]), "\x00"); got != "end" {
				t.Errorf("%s at %d: %q", name, at, got)
			}
		}
		must(t, f.Close())
	}
}

// A million entries fit, and the bound on entries holds before memory does.
func TestMemoryOfManyEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a million entries")
	}
	needs(t, false, "fsck.erofs")
	image, entries := measure(t, generate(1_000_000, "usr/lib/node_modules"))
	if entries != 1_000_000+10_000+3 {
		t.Errorf("%d entries", entries)
	}
	run(t, "fsck.erofs", image)
	refused(t, generate(rootfs.MaxEntries, "usr"), "/")
}

// generate streams an archive of n empty files, a hundred in each directory.
func generate(n int, top string) io.Reader {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		var err error
		for i := 0; i < n && err == nil; i++ {
			err = tw.WriteHeader(&tar.Header{
				Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatUSTAR,
				Name: fmt.Sprintf("%s/package-%07d/some-file-%07d.js", top, i/100, i),
			})
		}
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}
