package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/kind"
	"banger/kvm"
	"banger/shim"
)

// The files of a template: a full snapshot (Firecracker's
// docs/snapshotting/snapshot-support.md).
const (
	templateRAM   = "ram"   // the guest's memory; mapped privately by all who are restored
	templateState = "state" // of the processors and devices, with a checksum of Firecracker's
)

// formatVersion is part of every kind: a change in how machines are described
// here makes templates of before strangers.
const formatVersion = 1

// A snapshot's memory is written out whole, and one is loaded by mapping it, in some
// 20 ms; but many may be at once, on a busy host.
const (
	saveTimeout = 5 * time.Minute
	loadTimeout = time.Minute
)

// snapshot is a template's files, as Firecracker is told of them.
type snapshot struct{ state, ram string }

func (s snapshot) empty() bool { return s == snapshot{} }

// Kind digests what a restored machine must have in common with its template: all
// that Firecracker keeps in it. The serials of drives are in the command line.
func (d *Driver) Kind(ctx context.Context, m banger.Machine) (string, error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", err
	}
	return kind.Digest(m, struct {
		Format  int
		Build   build
		Jail    bool
		Host    string
		Cmdline string
		Limits  banger.Limits
	}{formatVersion, b, d.cfg.Jail, kvm.HostCPU(), kernelArgs(m), m.Limits})
}

// Capture has the shim let go of the channel and waits until the guest has seen
// that; then Firecracker stops the processors and writes all there is of them into
// its own directory, from where it is taken. No machine is resumed after a pause:
// see holes.
func (d *Driver) Capture(ctx context.Context, m banger.Machine, h banger.Handles, dir string) error {
	if err := shim.Release(ctx, m.Dir); err != nil {
		return fmt.Errorf("freeze machine %s: %w", m.ID, err)
	}
	if err := save(ctx, m); err != nil {
		return fmt.Errorf("save machine %s: %w", m.ID, err)
	}
	where := m.Dir
	if d.cfg.Jail {
		b, err := d.identify(ctx)
		if err != nil {
			return err
		}
		where = jailOf(m, b.Path).root
	}
	for _, name := range []string{templateState, templateRAM} {
		if err := take(filepath.Join(where, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("keep the template's %s: %w", name, err)
		}
	}
	if left, err := d.Kill(ctx, m, h); err != nil {
		return fmt.Errorf("end machine %s (%+v is left): %w", m.ID, left, err)
	}
	if d.cfg.Jail {
		return reclaim(m)
	}
	return nil
}

// reclaim makes the disks ours again that a machine's jail had: what is frozen with
// it is the template's.
func reclaim(m banger.Machine) error {
	for _, d := range m.Drives {
		if d.ReadOnly {
			continue
		}
		if err := os.Chown(d.Path, os.Getuid(), os.Getgid()); err != nil {
			return err
		}
	}
	return nil
}

func save(ctx context.Context, m banger.Machine) error {
	return onAPI(ctx, m.Dir, saveTimeout, func(ctx context.Context, a *api) error {
		if err := a.set(ctx, http.MethodPatch, "/vm", map[string]string{"state": "Paused"}); err != nil {
			return err
		}
		return a.set(ctx, http.MethodPut, "/snapshot/create", map[string]string{
			"snapshot_type": "Full", "snapshot_path": templateState, "mem_file_path": templateRAM,
		})
	})
}

// take makes a file that Firecracker wrote ours, and durable.
func take(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A jail's user wrote it, and could go on to.
	if err := errors.Join(f.Chown(os.Getuid(), os.Getgid()), f.Chmod(0o600)); err != nil {
		return err
	}
	if err := dig(f); err != nil {
		return err
	}
	return f.Sync()
}

// dig makes holes of a file's zeros: most of a guest's memory was never touched.
func dig(f *os.File) error {
	const step = 64 << 10
	buf, zeros := make([]byte, step), make([]byte, step)
	for off := int64(0); ; off += step {
		n, err := io.ReadFull(f, buf)
		if n > 0 && bytes.Equal(buf[:n], zeros[:n]) {
			err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(n))
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil // it is only larger
			}
			if err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Restore is a start without a kernel.
func (d *Driver) Restore(ctx context.Context, m banger.Machine, dir string) (banger.Handles, error) {
	from := snapshot{filepath.Join(dir, templateState), filepath.Join(dir, templateRAM)}
	st, err := os.Stat(from.ram)
	if err != nil {
		return banger.Handles{}, err
	}
	if want := int64(m.MemoryMiB) << 20; st.Size() != want {
		return banger.Handles{}, banger.Errorf(banger.CodeInvalid, "%s has %d bytes, the machine %d", from.ram, st.Size(), want)
	}
	return d.launch(ctx, m, from)
}

// load gives a Firecracker that has no machine yet the template's, and lets it run.
func load(ctx context.Context, m banger.Machine, from snapshot) error {
	return onAPI(ctx, m.Dir, loadTimeout, func(ctx context.Context, a *api) error {
		return a.set(ctx, http.MethodPut, "/snapshot/load", map[string]any{
			"snapshot_path": from.state, "resume_vm": true,
			"mem_backend": map[string]string{"backend_type": "File", "backend_path": from.ram},
		})
	})
}
