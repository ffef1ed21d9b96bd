package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// silence is how long the lab may say nothing. Its job gives a sign of life every
// few seconds, alive; a kernel that hangs gives none, and ends nothing either. Until
// its job begins it has bootTime: half a minute, several on a busy host.
const (
	silence  = 3 * time.Minute
	bootTime = 10 * time.Minute
	alive    = "LAB-ALIVE"
	quiet    = 20 * time.Second // before it is nudged
)

// machine is one boot of the lab. Its disks outlive it.
type machine struct {
	cmd     *exec.Cmd
	monitor string      // the path of its socket
	lines   chan string // what the job says; closed once it has ended
	in      io.Closer
	plug    *plug // of a root disk that loses writes; nil when it keeps all of them
}

// qemu is the emulator's command line; mode is "job" or "shell", and root the file or
// server that is the root disk. One processor: with two, the lab's own
// kernel died once in some minutes of nested guests. A lab that dies says so by
// ending, as a panic reboots it and it may not reboot. Its ext4 doesn't write by itself
// what was cut to nothing before, when it is closed (Documentation/admin-guide/ext4.rst):
// not every file system does that, and a flush that is missing wouldn't show.
func (l *lab) qemu(mode, root string) []string {
	drive := func(id, path string) string { return "if=none,format=raw,cache=writeback,id=" + id + ",file=" + path }
	return []string{
		"-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(l.o.memory), "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(l.base, "vmlinuz"), "-initrd", filepath.Join(l.base, "initrd"),
		"-append", "console=ttyS0 root=/dev/vda rw rootflags=noauto_da_alloc quiet systemd.show_status=0 mitigations=off oops=panic panic=1 unknown_nmi_panic lab.mode=" + mode,
		"-drive", drive("root", root), "-device", fmt.Sprintf("virtio-blk-pci,drive=root,physical_block_size=%d", sector),
		"-drive", drive("payload", l.payload()), "-device", "virtio-blk-pci,drive=payload",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci",
	}
}

// boot starts the lab with its job. The console goes to a log of its own.
func (l *lab) boot(ctx context.Context, mode, console string) (*machine, error) {
	return l.bootFrom(ctx, mode, console, l.disk(), nil)
}

// bootFrom boots from another root disk than the file, which its plug serves.
func (l *lab) bootFrom(ctx context.Context, mode, console, root string, p *plug) (*machine, error) {
	m := &machine{monitor: filepath.Join(l.dir, "monitor.sock"), lines: make(chan string), plug: p}
	args := append(l.qemu(mode, root), "-serial", "file:"+filepath.Join(l.o.out, console), "-monitor", "unix:"+m.monitor+",server=on,wait=off",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=job,signal=off", "-device", "virtserialport,chardev=job,name=lab")
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go m.listen(out)
	return m, nil
}

// listen passes on what the job says, and ends a lab that is silent.
func (m *machine) listen(out io.Reader) {
	defer close(m.lines)
	hung := time.AfterFunc(bootTime, m.hung)
	defer hung.Stop()
	nudge := time.AfterFunc(bootTime, m.nudge)
	defer nudge.Stop()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		hung.Reset(silence)
		nudge.Reset(quiet)
		if line := strings.TrimRight(lines.Text(), "\r"); line != alive {
			m.lines <- line
		}
	}
}

// hung has the lab's kernel say on its console where it is, by an interrupt that
// it can't put off and panics of, and ends the lab where it can't even do that.
func (m *machine) hung() {
	fmt.Printf("%-20s silent for too long: ending it\n", "lab")
	fmt.Println(m.tell("info registers\ninfo lapic\nnmi\n", 20*time.Second))
	_ = m.cmd.Process.Kill() // it may have ended by itself
}

// nudge presses a key. QEMU 7.2, emulating nested guests, at times forgets its
// processor's own timer: the lab's kernel is halted then, with the timer's interrupt
// pending (`info lapic`), for good, unless another makes QEMU look again.
func (m *machine) nudge() { m.tell("sendkey shift\n", time.Second) }

// tell has QEMU's monitor do commands, and returns what it says within so long.
func (m *machine) tell(commands string, within time.Duration) string {
	mon, err := net.Dial("unix", m.monitor)
	if err != nil {
		return err.Error()
	}
	defer mon.Close()
	_ = mon.SetDeadline(time.Now().Add(within)) // a socket always can
	if _, err := io.WriteString(mon, commands); err != nil {
		return err.Error()
	}
	words, _ := io.ReadAll(mon) // to its end, or the deadline
	return string(words)
}

// end waits for the machine. Killed or not, its disks are as it left them, and a
// drive that loses writes has yet to lose them.
func (m *machine) end() error {
	for range m.lines {
	}
	return errors.Join(m.cmd.Wait(), m.unplug())
}

// cut is a power cut: what was in the lab's memory is lost.
func (m *machine) cut() error {
	if err := m.cmd.Process.Kill(); err != nil {
		return err
	}
	for range m.lines {
	}
	_ = m.cmd.Wait() // it ends by the signal
	return m.unplug()
}

func (m *machine) unplug() error {
	if m.plug == nil {
		return nil
	}
	return m.plug.pull()
}

// shell gives this terminal to the lab's console.
func (l *lab) shell(ctx context.Context) error {
	fmt.Println("A root shell follows; the tests are in /lab/src, the programs in /lab/bin. `poweroff` ends it, as does ctrl-a x.")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(l.qemu("shell", l.disk()), "-serial", "mon:stdio")...)
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
