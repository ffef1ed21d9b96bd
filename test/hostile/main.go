// Hostile is a program that is the whole userland of a virtual machine and does its
// host all the harm it can: it floods, forges and leaves unread whatever a guest can
// reach. The same program serves what the guest talks to beyond its host, and traps
// where it must not get.
//
// It owns the attacks and counts them. It refuses to know whether they had any
// effect: who runs it measures the host.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// orders is what the guest is told to do, in a file that the host makes in it.
type orders struct {
	Outside string        `json:"outside"` // the address of who serves beyond the host
	Gateway string        `json:"gateway"`
	Closed  []string      `json:"closed"` // addresses that no guest may reach
	Slice   time.Duration `json:"slice"`  // how long each attack takes, again and again
}

const ordersFile = "/orders"

func main() {
	var err error
	switch args := os.Args[1:]; {
	case os.Getpid() == 1:
		err = rage()
	case len(args) == 2 && args[0] == "begin":
		err = os.WriteFile(ordersFile+".new", []byte(args[1]), 0o600)
		if err == nil {
			err = os.Rename(ordersFile+".new", ordersFile)
		}
	case len(args) == 2 && args[0] == "vmm":
		err = beVMM(args[1])
	case len(args) == 1 && args[0] == "outside":
		err = serveOutside()
	case len(args) == 2 && args[0] == "knock":
		(&network{}).knockFor(30*time.Second, args[1], trapPorts[0])
	case len(args) == 2 && args[0] == "bare":
		err = serveBare(args[1])
	case len(args) == 1 && args[0] == "trap":
		err = serveTraps()
	default:
		err = fmt.Errorf("usage: hostile begin ORDERS | vmm ORDERS | outside | bare SOCKET | trap | knock ADDRESS, or as PID 1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

// attack is one way to do harm, until the time it is given has passed.
type attack struct {
	name string
	do   func(until time.Time, n *atomic.Int64) error
}

// done counts what each attack did, and keeps why it last failed.
type done struct {
	mu     sync.Mutex
	counts map[string]*atomic.Int64
	ended  map[string]bool
	errs   map[string]string
}

func (d *done) of(name string) *atomic.Int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts[name] == nil {
		d.counts[name] = new(atomic.Int64)
	}
	return d.counts[name]
}

// say reports what was done so far, in one line.
func (d *done) say() {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := map[string]any{}
	for name, n := range d.counts {
		if d.ended[name] || n.Load() > 0 {
			line[name] = n.Load()
		}
	}
	for name, err := range d.errs {
		line["error of "+name] = err
	}
	b, err := json.Marshal(line)
	if err != nil {
		b = []byte(err.Error())
	}
	report(fmt.Sprintf("\nhostile: %s\n", b))
}

// openConsole opens what the host logs.
var openConsole = func() (io.WriteCloser, error) { return os.OpenFile("/dev/console", os.O_WRONLY, 0) }

// report takes what was done so far.
var report = func(text string) {
	if f, err := openConsole(); err == nil {
		_, _ = io.WriteString(f, text)
		_ = f.Close()
	}
}

// rage is PID 1's life: what attacks the network, the machine and the channel go on
// side by side, each round after round.
func rage() error {
	signal.Ignore(syscall.SIGCHLD) // the kernel buries the agents
	// Every device is there, and as many descriptors as there are.
	most := unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &most)
	var what orders
	for {
		b, err := os.ReadFile(ordersFile)
		if err == nil && json.Unmarshal(b, &what) == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	n, err := openNetwork(what)
	if err != nil {
		return err
	}
	c := &channel{waits: -1}
	if cmdline, err := os.ReadFile("/proc/cmdline"); err == nil {
		c.socket = bytes.Contains(cmdline, []byte("banger.channel=vsock"))
	}
	return do(what.Slice, n.attacks(), machineAttacks(), c.attacks())
}

// do attacks for ever, in each way one after the other, and says what was done.
func do(slice time.Duration, ways ...[]attack) error {
	d := &done{counts: map[string]*atomic.Int64{}, ended: map[string]bool{}, errs: map[string]string{}}
	for _, all := range ways {
		go func() {
			for {
				for _, a := range all {
					d.run(a, slice)
				}
			}
		}()
	}
	for {
		time.Sleep(time.Second)
		d.say()
	}
}

// tries is how often an attack is tried in a row until anything comes of it: a busy host
// gives its guests little time.
const tries = 5

func (d *done) run(a attack, slice time.Duration) {
	if a.name == "" {
		_ = a.do(time.Now().Add(slice), nil) // a rest
		return
	}
	n := d.of(a.name)
	for try := 0; try < tries && (try == 0 || n.Load() == 0); try++ {
		if err := attempt(a, slice, n); err != nil {
			d.failed(a.name, err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended[a.name] = true
}

func attempt(a attack, slice time.Duration, n *atomic.Int64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return a.do(time.Now().Add(slice), n)
}

func (d *done) failed(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs[name] = err.Error()
}
