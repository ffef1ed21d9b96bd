// Package tool holds the small programs the agent is itself, run under another
// name so that they work in any image, as the user who asked: tar, untar, cp, true.
//
// It refuses to know about sessions and streams: stdin, stdout, stderr and an
// exit status are its whole world.
package tool

import (
	"errors"
	"io"
	"os"
	"runtime"

	"banger/tartree"
)

// Name is argv[0] of an agent that is to be a tool.
const Name = "banger-tool"

// tools are the programs by name. Each gets its arguments and the three
// streams' two that carry data; an error is printed and makes the status 1.
var tools = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"tar":   pack,
	"untar": unpack,
	"cp":    place,
	"true":  func([]string, io.Reader, io.Writer) error { return nil },
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

// place is cp NAME DEST: it unpacks a tar of a tree of that name where cp would
// put that.
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

// Known reports whether there is a tool of that name.
func Known(name string) bool { return tools[name] != nil }

// Main runs the tool args[1] with the arguments after it and returns the exit
// status. args[0] is Name: a program that finds it there calls Main first thing.
func Main(args []string) int {
	if len(args) < 2 || !Known(args[1]) {
		_, _ = os.Stderr.WriteString("no such tool\n")
		return 127
	}
	// With one place to run goroutines, Go's monitor gives it to another thread at
	// every system call that lasts over 20 µs, as nearly all do in an emulated guest;
	// where one is idle, not before 10 ms (retake in the runtime's proc.go). Unpacking
	// takes half the time. Not for the agent: a command's round trip takes longer.
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2)
	}
	err := tools[args[1]](args[2:], os.Stdin, os.Stdout)
	if err != nil {
		_, _ = os.Stderr.WriteString(args[1] + ": " + err.Error() + "\n")
		return 1
	}
	return 0
}
