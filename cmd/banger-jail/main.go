// Command banger-jail is the first process of a VMM's jail. It only names what package jail, which says
// what it does, can do for the VMM there. In the VMM's place it attacks its own jail, to show that it stands.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"banger/vmm/jail"
	"banger/vmm/jail/attack"
	"banger/vmm/vhost"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == attack.Arg {
		os.Exit(attack.Main(os.Args[2:]))
	}
	runtime.GOMAXPROCS(1) // it hands on one guest's bytes: who does that next isn't worth the waking of a thread
	os.Exit(jail.Main(os.Args[1:], map[string]jail.Service{"vsock": vsock}))
}

// vsock is the host's end of a guest's vsock, which the VMM reaches at the first of the jail's sockets, and the
// host at the first that the VM's directory has for it.
func vsock(env jail.Env) (stop func(), err error) {
	vmm, host := env.Inside(env.Spec.Inside[0]), env.Listener(env.Spec.Listen[0])
	go func() {
		if err := vhost.New().Run(vmm, host); !errors.Is(err, vhost.ErrEnded) && !errors.Is(err, net.ErrClosed) {
			env.Fail(fmt.Errorf("the guest's vsock: %w", err)) // it can't get another one
		}
	}()
	return func() { _ = vmm.Close(); _ = host.Close() }, nil
}
