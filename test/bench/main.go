// Command bench measures banger against the floor: the same machine driven by
// nothing but QEMU, the same command's own cost in the guest, the bare channel.
// Runs are interleaved and medians are printed as ratios; absolute times of a
// shared machine mean little.
//
// It uses the user's own installation. Of banger's inside it knows only the command
// line of QEMU, the socket of a VM's vsock, and the records of many VMs in the store.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"banger"
	"banger/api"
	"banger/host/xdg"
	"banger/test/bench/bare"
	"banger/test/bench/native"
)

func main() {
	if os.Getpid() == 1 {
		bare.Init()
	}
	if os.Args[0] == bare.CommandName {
		n, _ := strconv.ParseInt(os.Args[1], 10, 64) // we wrote it
		bare.Command(n)
		return
	}
	if len(os.Args) == 2 && os.Args[1] == bare.Here {
		fmt.Println("the bare guest ended:", bare.Vsock())
		return
	}
	n := flag.Int("n", 15, "runs of each kind")
	only := flag.String("only", "", "run only the measurement of this name")
	hypervisor := flag.String("hypervisor", "", "measure on this one; empty: starts on qemu, the channel on what a VM gets here. Starts know qemu, and firecracker as a user without root")
	image := flag.String("image", "", "the image of the guest that exec and channel measure in; empty: the default one")
	flag.Parse()
	dirs, err := xdg.Of(os.Getenv)
	if err == nil {
		b := &bench{n: *n, hypervisor: cmp.Or(*hypervisor, qemu), chosen: *hypervisor, image: *image, dirs: dirs, banger: "banger", client: api.NewClient(func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", dirs.Socket)
		})}
		err = b.all(context.Background(), *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const qemu = "qemu"

type bench struct {
	n          int
	image      string
	hypervisor string // whose starts are measured, and which is driven by hand
	chosen     string // likewise, as the user said it; empty: what a VM gets here
	dirs       xdg.Dirs
	banger     string // the CLI, in PATH
	client     *api.Client
}

// all runs the measurements, or those chosen; one that fails doesn't hide the others.
func (b *bench) all(ctx context.Context, only string) error {
	var errs []error
	found := false
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{{"cold start", b.cold}, {"warm start", b.warm}, {"image template", b.imageTemplate}, {"native", func(ctx context.Context) error { return native.Run(ctx, b.banger, b.image, b.n) }}, {"exec", b.exec}, {"channel", (&channels{bench: b}).run}, {"disk", b.disk}, {"workspace", (&copies{b}).run}, {"daemon's memory", b.memory}, {"many VMs", b.scale}} {
		if only != "" && only != m.name {
			continue
		}
		found = true
		fmt.Printf("## %s\n", m.name)
		if err := m.run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
		fmt.Println()
	}
	if !found {
		return fmt.Errorf("there is no measurement %q", only)
	}
	return errors.Join(errs...)
}

// kind is the VM that is started. Firecracker's has no network, which would take a
// namespace and a TAP in it to drive by hand.
func kind(hypervisor string) banger.Spec {
	spec := banger.Spec{Hypervisor: hypervisor, Net: banger.NetUser}
	if hypervisor != qemu {
		spec.Net = banger.NetNone
	}
	return spec
}

// flags are kind for the command.
func flags(hypervisor string) []string {
	return []string{"--hypervisor", hypervisor, "--net", string(kind(hypervisor).Net)}
}

func (b *bench) vmDir(id string) string { return filepath.Join(b.dirs.State, "vms", id) }

// median of a sample; the spread is printed beside it.
func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// print writes one line of figures: minimum, median, maximum.
func print(what string, d []time.Duration) {
	s := slices.Sorted(slices.Values(d))
	round := time.Millisecond
	if median(d) < 100*time.Millisecond {
		round = 10 * time.Microsecond
	}
	fmt.Printf("%-44s min %10v  median %10v  max %10v  (n=%d)\n", what, s[0].Round(round), median(d).Round(round), s[len(s)-1].Round(round), len(s))
}
