package hostfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/host/hostfs"
)

func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := hostfs.TryOpenLocked(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hostfs.TryOpenLocked(path); !errors.Is(err, hostfs.ErrLocked) {
		t.Fatalf("a second one got the lock: %v", err)
	}
	gone := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := hostfs.OpenLocked(ctx, path); !errors.Is(err, gone) {
		t.Fatalf("a waiter is told %v", err)
	}
	waited := make(chan error, 1)
	go func() {
		f, err := hostfs.OpenLocked(t.Context(), path)
		if err == nil {
			err = f.Close()
		}
		waited <- err
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

func TestSharedLocks(t *testing.T) {
	dir := t.TempDir()
	open := func() *os.File {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	one, two := open(), open()
	if err := errors.Join(hostfs.Share(t.Context(), one), hostfs.Share(t.Context(), two)); err != nil {
		t.Fatal(err)
	}
	if err := hostfs.TryLock(open()); !errors.Is(err, hostfs.ErrLocked) {
		t.Fatalf("an exclusive lock beside shared ones: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := hostfs.Lock(ctx, open()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waiting for it: %v", err)
	}
}

func TestNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := hostfs.TryOpenLocked(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if !hostfs.Named(f, path) {
		t.Error("a file isn't what its name says")
	}
	if err := errors.Join(os.Rename(path, path+".2"), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if hostfs.Named(f, path) || !hostfs.Named(f, path+".2") {
		t.Error("a name that means another file is taken for it")
	}
	if err := os.Symlink(path, path+".3"); err != nil {
		t.Fatal(err)
	}
	if _, err := hostfs.OpenLocked(t.Context(), path+".3"); err == nil {
		t.Error("a link was followed to a lock")
	}
}
