// Package tool holds the small programs the agent is itself, run under another
// name so that they work in any image, as the user who asked: tar, untar, true.
//
// It refuses to know about sessions and streams: stdin, stdout, stderr and an
// exit status are its whole world.
package tool

// Name is argv[0] of an agent that is to be a tool.
const Name = "banger-tool"

// Main runs the tool args[1] with the arguments after it and returns the exit
// status. args[0] is Name: a program that finds it there calls Main first thing.
func Main(args []string) int { return 127 }
