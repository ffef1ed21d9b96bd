package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"time"

	"banger"
	"banger/guest"
	"banger/vmm/shim"
)

// exec compares the round trip of `vm exec -- true`, made as the CLI makes it,
// with the guest's own cost of the command and one echo over the bare channel.
func (b *bench) exec(ctx context.Context) error {
	vm, err := b.client.VMs().CreateVM(ctx, banger.Spec{Name: "bench-exec", Image: b.image}, true, nil)
	if err != nil {
		return err
	}
	defer func() { _ = b.client.VMs().DeleteVM(ctx, vm.ID) }()
	client := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return b.client.VMs().Dial(ctx, vm.ID) }}
	if err := settle(ctx, client); err != nil {
		return err
	}
	// The bare channel begins where the shim's socket is: the daemon is ours.
	shimmed := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return shim.Dial(ctx, b.vmDir(vm.ID)) }}
	echo, err := shimmed.Echo(ctx)
	if err != nil {
		return err
	}
	defer echo.Close()
	var trip, own, bare, added, whole []time.Duration
	for range 20 * b.n {
		start := time.Now()
		if err := echoOnce(echo); err != nil {
			return err
		}
		e := time.Since(start)
		start = time.Now()
		status, err := client.Exec(ctx, guest.ExecSpec{ID: guest.NewID(), Argv: []string{"true"}}, guest.IO{})
		if err != nil || status.Code != 0 {
			return fmt.Errorf("true: %+v, %w", status, err)
		}
		t, o := time.Since(start), time.Duration(status.TookUS)*time.Microsecond
		trip, own, bare, added = append(trip, t), append(own, o), append(bare, e), append(added, t-o-e)
	}
	for range b.n {
		start := time.Now()
		if out, err := exec.Command(b.banger, "vm", "exec", vm.ID, "--", "true").CombinedOutput(); err != nil {
			return fmt.Errorf("vm exec: %w: %s", err, bytes.TrimSpace(out))
		}
		whole = append(whole, time.Since(start))
	}
	print("round trip of true", trip)
	print("the guest's own fork, exec and wait", own)
	print("one echo over the bare channel", bare)
	print("what is left is ours", added)
	print("the whole command, its process too", whole)
	fmt.Printf("ours over the sum of the other two: %.2f\n", float64(median(added))/float64(median(own)+median(bare)))
	return nil
}

func echoOnce(c net.Conn) error {
	b := []byte{'x'}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := c.Read(b)
	return err
}
