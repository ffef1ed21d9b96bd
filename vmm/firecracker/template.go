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
	"banger/vmm/kvm"
	"banger/vmm/machine"
)

// The files of a template: a full snapshot (Firecracker's
// docs/snapshotting/snapshot-support.md).
const (
	templateRAM   = "ram"   // the guest's memory; mapped privately by all who are restored
	templateState = "state" // of the processors and devices, with a checksum of Firecracker's
)

// formatVersion is part of every kind. Raise it when machines are described in another way:
// then older templates don't fit any more.
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

// Kind returns a digest of what a restored machine must have in common with its template: all
// that Firecracker keeps in it. The serials of drives are in the command line.
func (d *Driver) Kind(ctx context.Context, m banger.Machine) (string, error) {
	b, err := d.identify(ctx)
	if err != nil {
		return "", err
	}
	return machine.Kind(m, struct {
		Format  int
		File    machine.File
		Build   build
		Jail    bool
		Host    string
		Cmdline string
		Limits  banger.Limits
	}{formatVersion, b.file, b, d.cfg.Jail, kvm.HostCPU(), kernelArgs(m), m.Limits})
}

// Capture pauses the machine and makes Firecracker write a full snapshot into its own
// directory, from where it is moved to dir. A paused machine is never resumed: see holes.
func (d *Driver) Capture(ctx context.Context, m banger.Machine, h banger.Handles, dir string) error {
	where := m.Dir
	if d.cfg.Jail {
		b, err := d.identify(ctx)
		if err != nil {
			return err
		}
		where = jailOf(m, b.file.Path).root
	}
	err := d.Supervisor.Capture(ctx, m, h, func() error {
		if err := save(ctx, m); err != nil {
			return err
		}
		for _, name := range []string{templateState, templateRAM} {
			if err := take(filepath.Join(where, name), filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("keep the template's %s: %w", name, err)
			}
		}
		return nil
	})
	for _, drive := range m.Drives { // what is frozen with it is the template's, and no jail's any more
		if err == nil && d.cfg.Jail && !drive.ReadOnly {
			err = os.Chown(drive.Path, os.Getuid(), os.Getgid())
		}
	}
	return err
}

func save(ctx context.Context, m banger.Machine) error {
	return onAPI(ctx, m.Dir, saveTimeout, func(ctx context.Context, a *api) error {
		if err := a.do(ctx, http.MethodPatch, "/vm", map[string]string{"state": "Paused"}, nil); err != nil {
			return err
		}
		return a.do(ctx, http.MethodPut, "/snapshot/create", map[string]string{
			"snapshot_type": "Full", "snapshot_path": templateState, "mem_file_path": templateRAM,
		}, nil)
	})
}

// take moves a file that Firecracker wrote, makes it ours and syncs it.
func take(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is no file", from), err)
	}
	// The jail's user wrote it, and could still write to it.
	if err := errors.Join(f.Chown(os.Getuid(), os.Getgid()), f.Chmod(0o600)); err != nil {
		return err
	}
	if err := dig(f); err != nil {
		return err
	}
	return f.Sync()
}

// dig makes holes of a file's zeros: a guest never used most of its memory.
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

// Restore implements banger.Capturer.
func (d *Driver) Restore(ctx context.Context, m banger.Machine, dir string) (banger.Handles, error) {
	from := snapshot{filepath.Join(dir, templateState), filepath.Join(dir, templateRAM)}
	if err := machine.CheckMemory(from.ram, m); err != nil {
		return banger.Handles{}, err
	}
	return d.launch(ctx, m, from)
}

// load makes a Firecracker without a machine load the template's and run it.
func load(ctx context.Context, m banger.Machine, from snapshot) error {
	return onAPI(ctx, m.Dir, loadTimeout, func(ctx context.Context, a *api) error {
		return a.do(ctx, http.MethodPut, "/snapshot/load", map[string]any{
			"snapshot_path": from.state, "resume_vm": true,
			"mem_backend": map[string]string{"backend_type": "File", "backend_path": from.ram},
		}, nil)
	})
}
