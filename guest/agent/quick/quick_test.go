package quick_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/guest/agent/quick"
)

// pipe returns both ends of a pipe that doesn't block.
func pipe(t *testing.T) (r, w *quick.File) {
	t.Helper()
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r, w = quick.New(os.NewFile(uintptr(fd[0]), "r")), quick.New(os.NewFile(uintptr(fd[1]), "w"))
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// More than a pipe holds goes through it, whoever has to wait, and its end is one.
func TestThrough(t *testing.T) {
	t.Parallel()
	r, w := pipe(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	var writer sync.WaitGroup
	writer.Go(func() {
		if n, err := w.Write(want); n != len(want) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		_ = w.Close()
	})
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came, %v", len(got), len(want), err)
	}
	writer.Wait()
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing at the end: %d, %v", n, err)
	}
}

// Who waits learns that the file was closed, on either side.
func TestClosed(t *testing.T) {
	t.Parallel()
	r, w := pipe(t)
	done := make(chan error)
	go func() { _, err := r.Read(make([]byte, 1)); done <- err }()
	_ = r.Close()
	if err := <-done; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read: %v", err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write that nobody can read: %v", err)
	}
	_ = w.Close()
	if _, err := w.Write([]byte("x")); err == nil {
		t.Errorf("Write: %v", err)
	}
}

// A file that may block is read and written all the same.
func TestBlocking(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	q := quick.New(f)
	defer q.Close()
	if _, err := q.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(q); string(got) != "text" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// Whoever looks at a file that nobody reads from sees whether a reader still has bytes of it.
func TestTaking(t *testing.T) {
	r, w := pipe(t)
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if !r.Taking() {
		t.Error("bytes that were read and not kept aren't being taken")
	}
	if r.Kept(); r.Taking() {
		t.Error("bytes that were kept are being taken")
	}
}
