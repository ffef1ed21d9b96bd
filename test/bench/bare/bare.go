// Package bare is what the benchmark's program is in a guest: one that reads, writes and echoes
// on the device that a VM's agent has. It knows no link and no agent, and nothing of the host.
package bare

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The bare guest is this program in a guest, on the device that a VM's agent has: it reads,
// writes and echoes what it is told to. What it is told is an order byte and a number of
// bytes, big endian. Where the channel is a vsock it runs beside the agent, which has nothing
// to do meanwhile, on another port; a serial port is for one program alone, so there it is
// the /init of a machine of its own.
const (
	Reads     = 'r' // so many bytes, then answers with one
	Feeds     = 'f' // likewise, by a command's stdin
	Writes    = 'w'
	Passes    = 'p' // likewise, what a command writes
	Echoes    = 'e' // each byte, by itself
	orderSize = 9
	Piece     = 32 << 10 // what Linux takes in one write of a port
)

// CommandName is the name by which the bare guest runs itself as its command, with a
// number of bytes: it writes so many zeros, or reads to the end if there are none.
const CommandName = "bare-command"

// Of a bare guest beside an agent: its argument, its port, and what it says when it listens.
const (
	Here  = "bare-guest"
	Port  = 5000
	Ready = "the bare guest listens"
)

// Command is that command, with dd's blocks of 64 KiB.
func Command(n int64) {
	buf := make([]byte, 64<<10)
	if n == 0 {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{os.Stdin}, buf)
		return
	}
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := os.Stdout.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return
		}
	}
}

// serve does what it is told until the host hangs up.
func serve(port io.ReadWriter) error {
	buf := make([]byte, Piece)
	for {
		if _, err := io.ReadFull(port, buf[:orderSize]); err != nil {
			return err
		}
		if err := obey(port, buf[0], int64(binary.BigEndian.Uint64(buf[1:])), buf); err != nil {
			return err
		}
	}
}

func obey(port io.ReadWriter, order byte, n int64, buf []byte) error {
	switch order {
	case Reads:
		for n > 0 {
			k, err := port.Read(buf[:min(n, Piece)])
			if err != nil {
				return err
			}
			n -= int64(k)
		}
		_, err := port.Write(buf[:1])
		return err
	case Feeds:
		if err := feed(port, n, buf); err != nil {
			return err
		}
		_, err := port.Write(buf[:1])
		return err
	case Passes:
		return pass(port, n, buf)
	case Writes:
		for ; n > 0; n -= Piece {
			if _, err := port.Write(buf[:min(n, Piece)]); err != nil {
				return err
			}
		}
	case Echoes:
		for ; n > 0; n-- {
			if _, err := io.ReadFull(port, buf[:1]); err != nil {
				return err
			}
			if _, err := port.Write(buf[:1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func feed(port io.Reader, n int64, buf []byte) error {
	cmd := child(0)
	w, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	for n > 0 && err == nil {
		var k int
		if k, err = port.Read(buf[:min(n, Piece)]); err == nil {
			_, err = w.Write(buf[:k])
		}
		n -= int64(k)
	}
	if err != nil {
		return err
	}
	return errors.Join(w.Close(), cmd.Wait())
}

func pass(port io.Writer, n int64, buf []byte) error {
	cmd := child(n)
	r, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	for n > 0 && err == nil {
		var k int
		if k, err = r.Read(buf[:min(n, Piece)]); err == nil {
			_, err = port.Write(buf[:k])
		}
		n -= int64(k)
	}
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// child is a command that writes n zeros, or reads to the end if n is 0: dd where there is
// one, else this program, which is the /init of a machine without one.
func child(n int64) *exec.Cmd {
	if _, err := exec.LookPath("dd"); err != nil {
		cmd := exec.Command("/init", strconv.FormatInt(n, 10))
		cmd.Args[0] = CommandName
		return cmd
	}
	if n == 0 {
		return exec.Command("dd", "bs=64k", "of=/dev/null")
	}
	return exec.Command("dd", "if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", n>>16))
}

// Vsock is the bare guest beside an agent. It serves one host.
func Vsock() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: Port})
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return err
	}
	fmt.Println(Ready)
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	return serve(os.NewFile(uintptr(conn), "vsock"))
}

// Init is the bare guest. It doesn't return: a kernel panics whose init ends, and
// the console has to say why it did.
func Init() {
	fmt.Println("the bare guest ended:", run())
	time.Sleep(time.Hour)
}

func run() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	modules, _ := filepath.Glob("/lib/banger/early/*.ko") // sorted; the pattern is well-formed
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	port, err := serialPort()
	if err != nil {
		return err
	}
	return serve(waiting{port})
}

// serialPort waits for the machine's only port, whose node comes before it can be opened.
func serialPort() (*os.File, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		ports, _ := filepath.Glob("/dev/vport*") // the pattern is well-formed
		for _, name := range ports {
			port, err := os.OpenFile(name, os.O_RDWR, 0)
			if err == nil || time.Now().After(end) {
				return port, err
			}
		}
		if time.Now().After(end) {
			return nil, errors.New("no port came")
		}
	}
}

// waiting is a port whose end of file means that no host is there yet.
type waiting struct{ *os.File }

func (w waiting) Read(b []byte) (int, error) {
	for {
		n, err := w.File.Read(b)
		if n > 0 || err != io.EOF {
			return n, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
