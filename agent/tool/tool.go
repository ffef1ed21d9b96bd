// Package tool holds the small programs the agent is itself, run under another
// name so that they work in any image, as the user who asked: tar, untar, true.
//
// It refuses to know about sessions and streams: stdin, stdout, stderr and an
// exit status are its whole world.
package tool

import (
	"bufio"
	"io"
	"os"
)

// Name is argv[0] of an agent that is to be a tool.
const Name = "banger-tool"

// tools are the programs by name. Each gets its arguments and the three
// streams' two that carry data; an error is printed and makes the status 1.
var tools = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"tar":   writeTar,
	"untar": readTar,
	"true":  func([]string, io.Reader, io.Writer) error { return nil },
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
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	err := tools[args[1]](args[2:], os.Stdin, out)
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(args[1] + ": " + err.Error() + "\n")
		return 1
	}
	return 0
}
