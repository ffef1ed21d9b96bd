// Package tool has the small programs that are part of the agent: tar, untar, cp, true,
// sftp-server, and work, which says what there is of a repository's work.
// The agent runs itself under another name, so that they work in any image, as the user
// who asked.
//
// It knows nothing of sessions and streams: a tool has stdin, stdout, stderr and an exit
// status.
package tool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/pkg/sftp"

	"banger/guest"
	"banger/guest/tartree"
)

// Name is argv[0] of an agent that is to be a tool.
const Name = "banger-tool"

// tools are the programs by name. Each gets its arguments, stdin and stdout; an error is
// printed on stderr and makes the status 1, or guest.ToolNotFound.
var tools = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"tar":         pack,
	"untar":       unpack,
	"cp":          place,
	"work":        giveWork,
	"workstate":   workState,
	"tidy":        tidy,
	"sync":        syncRepo,
	"settle":      settle,
	"true":        func([]string, io.Reader, io.Writer) error { return nil },
	"sftp-server": sftpServer,
}

// pack is tar PATH: it writes a tar of what is there.
func pack(args []string, _ io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("one path, please")
	}
	return tartree.Pack(out, args[0])
}

// unpack is untar DIR: it unpacks a tar below a directory, which is created.
func unpack(args []string, in io.Reader, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	return tartree.Unpack(in, tartree.Place{Dir: args[0]})
}

// place is cp NAME DEST: it unpacks a tar of a tree of that name to where cp would put it.
func place(args []string, in io.Reader, _ io.Writer) error {
	if len(args) != 2 {
		return errors.New("a name and its place, please")
	}
	at, err := tartree.At(args[1], args[0])
	if err != nil {
		return err
	}
	return tartree.Unpack(in, at)
}

// sftpServer is sftp-server: it serves one client of SFTP, with the rights of whoever runs
// it. Paths that don't begin at the root begin where it was started.
func sftpServer(_ []string, in io.Reader, out io.Writer) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	s, err := sftp.NewServer(duplex{in, out}, sftp.WithServerWorkingDirectory(dir))
	if err == nil {
		err = s.Serve()
	}
	if errors.Is(err, io.EOF) {
		err = nil // the client has left
	}
	return err
}

// duplex is stdin and stdout as one connection.
type duplex struct {
	io.Reader
	io.Writer
}

// Close does nothing: the process ends.
func (duplex) Close() error { return nil }

// Known reports whether there is a tool of that name.
func Known(name string) bool { return tools[name] != nil }

// Main runs the tool args[1] with the arguments after it and returns the exit
// status. args[0] is Name: a program that finds it there calls Main first thing.
func Main(args []string) int {
	if len(args) < 2 || !Known(args[1]) {
		_, _ = os.Stderr.WriteString("no such tool\n")
		return 127
	}
	// With GOMAXPROCS 1, Go's runtime switches threads at every system call of over 20 µs,
	// and nearly all take that in an emulated guest. With an idle P it waits 10 ms (retake in
	// the runtime's proc.go), and unpacking takes half the time. The agent itself doesn't do
	// this: a command's round trip would take longer.
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2)
	}
	err := tools[args[1]](args[2:], os.Stdin, os.Stdout)
	if err != nil {
		_, _ = os.Stderr.WriteString(args[1] + ": " + err.Error() + "\n")
		if errors.Is(err, fs.ErrNotExist) {
			return guest.ToolNotFound
		}
		return 1
	}
	return 0
}
