package uml_test

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger"
	"banger/guest"
	"banger/kernel"
	"banger/vmm/kvm"
	"banger/vmm/qemu"
)

var figures = flag.Int("figures", 0, "measure a machine's start and speed, so many times, beside QEMU and the host")

// work is what is timed in guests and on the host, by the same programs on one processor.
var work = []struct{ name, script string }{
	{"compute: awk, a loop of 1,000,000", "busybox awk 'BEGIN { for (i = 0; i < 1000000; i++) x = x * 31 % 65521 + i; print x }'"},
	{"compute: sha256 of 16 MiB", "busybox dd if=/dev/zero bs=1M count=16 2>/dev/null | busybox sha256sum"},
	{"100 times /bin/true in sh", "i=0; while [ $i -lt 100 ]; do busybox true; i=$((i+1)); done"},
	{"40,000 system calls (dd bs=1)", "busybox dd if=/dev/zero of=/dev/null bs=1 count=20000 2>/dev/null"},
	{"write 64 MiB, fsync", "busybox dd if=/dev/zero of=$HOME/x bs=1M count=64 conv=fsync 2>/dev/null; rm $HOME/x"},
}

// What docs/lab/benchmarks.md says of User-mode Linux comes from here. It asserts nothing.
func TestFigures(t *testing.T) {
	if *figures == 0 {
		t.Skip("run with -figures 5")
	}
	d := newDriver(t)
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	host, err := kvm.Cached(t.Context(), filepath.Join(t.TempDir(), "kvm.json"))
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]banger.Hypervisor{
		"debian-13-uml":    d,
		kernel.DefaultName: qemu.New(qemu.Config{Shim: filepath.Join(bin, "banger-shim"), CacheDir: t.TempDir(), KVM: host.Verdict == kvm.Works, TSCKHz: host.TSCKHz}),
	}
	for _, name := range []string{"debian-13-uml", kernel.DefaultName} {
		t.Run(name, func(t *testing.T) { measure(t, machines[name], name) })
	}
	t.Run("host", func(t *testing.T) {
		for _, w := range work {
			t.Logf("%-40s %v", w.name, median(func() time.Duration {
				cmd := exec.Command("taskset", "-c", "0", "/bin/busybox", "sh", "-c", w.script)
				cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/bin"}
				return timed(t, func() error { return cmd.Run() })
			}))
		}
	})
}

func measure(t *testing.T, d banger.Hypervisor, name string) {
	files, err := kernelOf(name)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, d)
	furnish(t, &m)
	m.Kernel, m.Initramfs, m.Drives[0].Path = files.Vmlinux, files.Initramfs, files.Modules
	var c *guest.Client
	var agent, whole []time.Duration
	for range *figures {
		if _, err := d.Kill(t.Context(), m, banger.Handles{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := d.Start(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		conn, err := d.Dial(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		agent = append(agent, time.Since(began))
		c = configure(t, d, m, files.version)
		run(t, c, "true")
		whole = append(whole, time.Since(began))
	}
	t.Logf("%-40s %v", "start to the agent's answer", middle(agent))
	t.Logf("%-40s %v", "start to the end of a first command", middle(whole))
	t.Logf("%-40s %v", "a command (true)", median(func() time.Duration { return timed(t, func() error { run(t, c, "true"); return nil }) }))
	for _, w := range work {
		t.Logf("%-40s %v", w.name, median(func() time.Duration { return timed(t, func() error { run(t, c, w.script); return nil }) }))
	}
	in := make([]byte, 32<<20)
	t.Logf("%-40s %v", "32 MiB through a command's stdin", median(func() time.Duration {
		return timed(t, func() error {
			_, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"busybox", "wc", "-c"}, Stdin: true}, guest.IO{Stdin: bytes.NewReader(in), Stdout: io.Discard})
			return err
		})
	}))
	t.Logf("%-40s %v", "32 MiB from its stdout", median(func() time.Duration {
		return timed(t, func() error {
			_, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"busybox", "dd", "if=/dev/zero", "bs=1M", "count=32"}}, guest.IO{Stdout: io.Discard, Stderr: io.Discard})
			return err
		})
	}))
}

func run(t *testing.T, c *guest.Client, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	status, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"sh", "-c", script}}, guest.IO{Stdout: &out, Stderr: &out})
	if err != nil || status.Code != 0 {
		t.Fatalf("%s: %+v, %v, %s", script, status, err, out.String())
	}
}

func timed(t *testing.T, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func median(f func() time.Duration) time.Duration {
	var all []time.Duration
	for range *figures {
		all = append(all, f())
	}
	return middle(all)
}

func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2].Round(100 * time.Microsecond)
}
