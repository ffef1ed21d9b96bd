// Command banger is the command line. This package is wiring: it reads the
// environment, finds the user's daemon or starts it, and hands both to package
// cli. It knows nothing of what a command does.
package main

import (
	"context"
	"os"
	"path/filepath"

	"banger/api"
	"banger/cli"
	"banger/config"
)

func main() {
	os.Exit(run())
}

func run() int {
	conf, dirs, err := config.Load(os.Getenv)
	d := &daemon{dirs: dirs, unusable: err, conf: conf}
	client := api.NewClient(d.connect)
	client.Replace = d.replace
	// A shell asking for completions must not start or end anything.
	if len(os.Args) > 1 && (os.Args[1] == "__complete" || os.Args[1] == "__completeNoDesc") {
		client = api.NewClient(d.find)
	}
	program, _ := os.Executable() // or nothing, and ssh finds nothing to run
	home, _ := os.UserHomeDir()
	return cli.Run(context.Background(), cli.App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Term: os.Getenv("TERM"), Getenv: os.LookupEnv,
		Services: client, Daemon: d, API: api.Description,
		Config: func() (config.Config, error) { return conf, err },
		SSH:    cli.SSH{Program: program, Dir: filepath.Join(dirs.State, "ssh"), Config: filepath.Join(home, ".ssh/config")},
	}, os.Args[1:])
}
