package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// machine is one boot of the lab. Its disks outlive it.
type machine struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner // what the job says
	in    io.Closer
}

// qemu is the emulator's command line; mode is "job" or "shell". One processor: with two, the lab's own
// kernel died once in some minutes of nested guests. A lab that dies says so by
// ending, as a panic reboots it and it may not reboot.
func (l *lab) qemu(mode string) []string {
	drive := func(path string) string { return "if=virtio,format=raw,cache=writeback,file=" + path }
	return []string{
		"-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(l.o.memory), "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(l.base, "vmlinuz"), "-initrd", filepath.Join(l.base, "initrd"),
		"-append", "console=ttyS0 root=/dev/vda rw quiet systemd.show_status=0 mitigations=off oops=panic panic=1 lab.mode=" + mode,
		"-drive", drive(l.disk()), "-drive", drive(l.payload()),
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci",
	}
}

// boot starts the lab with its job. The console goes to a log of its own.
func (l *lab) boot(ctx context.Context, mode, console string) (*machine, error) {
	args := append(l.qemu(mode), "-serial", "file:"+filepath.Join(l.o.out, console),
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=job,signal=off", "-device", "virtserialport,chardev=job,name=lab")
	m := &machine{cmd: exec.CommandContext(ctx, "qemu-system-x86_64", args...)}
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	m.lines = bufio.NewScanner(out)
	m.lines.Buffer(nil, 1<<20)
	return m, m.cmd.Start()
}

// end waits for the machine. Killed or not, its disks are as it left them.
func (m *machine) end() error {
	for m.lines.Scan() {
	}
	return m.cmd.Wait()
}

// cut is a power cut: what was in the lab's memory is lost, what it wrote to its
// drives is not.
func (m *machine) cut() error {
	if err := m.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = m.end() // it ends by the signal
	return nil
}

// shell gives this terminal to the lab's console.
func (l *lab) shell(ctx context.Context) error {
	fmt.Println("A root shell follows; the tests are in /lab/src, the programs in /lab/bin. `poweroff` ends it, as does ctrl-a x.")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(l.qemu("shell"), "-serial", "mon:stdio")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// fetch brings the directory /results of the lab's second disk back.
func (l *lab) fetch(ctx context.Context) error {
	// What an interrupted run left is worth having too.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "debugfs", "-R", "rdump /results "+l.o.out, l.payload())
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
