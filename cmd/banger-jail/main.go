// Command banger-jail is the first process of a VMM's jail. It only names what package jail, which says
// what it does, can do for the VMM there. In the VMM's place it attacks its own jail, to show that it stands.
package main

import (
	"os"

	"banger/vmm/jail"
	"banger/vmm/jail/attack"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == attack.Arg {
		os.Exit(attack.Main(os.Args[2:]))
	}
	os.Exit(jail.Main(os.Args[1:], nil))
}
