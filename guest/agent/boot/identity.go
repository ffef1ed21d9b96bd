package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/channel"
)

// ext4Resize is EXT4_IOC_RESIZE_FS, which takes the new number of blocks (the
// kernel's fs/ext4/ext4.h).
const ext4Resize = 0x40086610

func ioctlPointer[T any](fd int, request uintptr, arg *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// writeIdentity writes the machine's names and addresses into its root. A user's lines in
// /etc/hosts stay.
func writeIdentity(id guest.Identity) error {
	if err := os.Mkdir("/etc", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	files := []struct {
		path    string
		mode    os.FileMode
		content func(old string) string
	}{
		{"/etc/hostname", 0o644, func(string) string { return id.Hostname + "\n" }},
		{"/etc/machine-id", 0o444, func(string) string { return id.MachineID + "\n" }},
		{"/etc/hosts", 0o644, func(old string) string { return hosts(old, id.Hostname) }},
	}
	if id.Net != nil && id.Net.DNS != "" {
		resolv := func(string) string { return "nameserver " + id.Net.DNS + "\n" }
		files = append(files, files[0])
		files[len(files)-1].path, files[len(files)-1].content = "/etc/resolv.conf", resolv
	}
	for _, f := range files {
		if err := updateFile(f.path, f.mode, f.content); err != nil {
			return err
		}
	}
	return nil
}

// ownLine is the line of /etc/hosts by which a machine has its name.
func ownLine(name string) string { return "127.0.1.1\t" + name + "\n" }

// forgetName removes a machine's earlier name.
func forgetName(name string) error {
	return updateFile("/etc/hosts", 0o644, func(old string) string { return strings.Replace(old, ownLine(name), "", 1) })
}

// hosts returns old with a name for this machine in it.
func hosts(old, name string) string {
	if strings.TrimSpace(old) == "" {
		old = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	for line := range strings.Lines(old) {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 1 && slices.Contains(f[1:], name) {
			return old
		}
	}
	if !strings.HasSuffix(old, "\n") {
		old += "\n"
	}
	return old + ownLine(name)
}

// maxConfig bounds the files of an image we read.
const maxConfig = 1 << 20

// updateFile replaces the content of path. It follows symbolic links, as programs that
// read the file do. A link that leads to where no file can be made is replaced:
// /etc/resolv.conf often leads to a file that a service has yet to make. It is an error
// if path isn't a file.
func updateFile(path string, mode os.FileMode, content func(old string) string) error {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, mode)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		if err := os.Remove(path); err != nil {
			return err
		}
		f, err = os.OpenFile(path, flags, mode)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s of the image is not a file", path)
	}
	old, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return err
	}
	text := content(string(old))
	if text == string(old) {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	return err
}

// Channel says what carries the host's streams (see package channel): a
// virtio-serial port unless the kernel's command line has banger.channel=.
func Channel() string {
	return cmp.Or(cmdlineValue("banger.channel"), channel.Virtio)
}
