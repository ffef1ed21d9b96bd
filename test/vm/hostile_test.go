package vm_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/api"
	"banger/guest"
	"banger/host/cgroup"
	"banger/host/proc"
	"banger/host/unixsock"
	"banger/test/vmtest"
	"banger/vmm/shim"
)

var hostileFor = flag.Duration("for", 75*time.Second, "how long the hostile guest does its worst; from 10m on the test fails where the daemon takes a second longer to answer than a process that does nothing else")

// A guest that is a program of ours (test/hostile) alone floods, forges and leaves
// unread whatever it can reach. Its shim, its VMM beyond the guest's memory and the
// daemon stay within their bounds, the daemon answers, a VM beside it does its work, and
// nothing gets to where no guest may get.
func TestHostileGuest(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	if *vmtest.Hypervisor == "firecracker" {
		t.Skip("it doesn't know Firecracker's memory")
	}
	program := buildHostile(t)
	near, closed, traps := hostileWorld(t, program)
	vmtest.Shared.Close()
	h := vmtest.Shared.With()
	h.Netns = near
	t.Cleanup(h.Close)
	image := filepath.Join(t.TempDir(), "hostile.tar")
	if out, err := exec.Command("tar", "-C", filepath.Dir(program), "-cf", image, "--transform", "s,^,sbin/,;s,hostile$,init,", "hostile").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.OK(t, "image", "import", "--name", "hostile", image)
	t.Cleanup(func() { h.OK(t, "image", "delete", "hostile") })

	good := h.NewVM(t)
	w := &watched{h: h, t: t, near: near, good: good, bareAt: filepath.Join(t.TempDir(), "bare.sock")}
	side(t, near, program, "bare", w.bareAt)
	w.prepareNeighbour()
	w.bad = h.NewVM(t, "--image", "hostile", "--memory", fmt.Sprint(badMiB), "--disk-size", "3G", "--vcpu", "1")
	w.connect()
	caught := w.trapBeside(program)
	gateway := "10.0.2.2"
	if *vmtest.Network == "bridge" { // on the user network every VM has the same addresses, and is alone
		beside, _, _ := strings.Cut(h.Show(t, good).Net.Address, "/")
		gateway = h.Show(t, w.bad).Net.Gateway
		closed = append(closed, gateway, beside)
	}
	slice := max(*hostileFor/20, 2*time.Second)
	what, err := json.Marshal(map[string]any{"outside": "192.0.2.2", "gateway": gateway, "closed": closed, "slice": min(slice, 30*time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	w.quiet()
	t.Logf("the hostile guest begins, for %v", *hostileFor)
	h.OK(t, "vm", "exec", w.bad, "--", "/sbin/init", "begin", string(what))

	ctx, cancel := context.WithTimeout(t.Context(), *hostileFor)
	defer cancel()
	var all sync.WaitGroup
	for _, watch := range []func(context.Context){w.askDaemon, w.measure, w.neighbour, w.clients, w.holdStreams, w.commands} {
		all.Go(func() { watch(ctx) })
	}
	all.Wait()
	w.report(traps.String() + caught())
}

// hostileWorld makes two network namespaces: near is the host, with addresses that no
// guest may reach and traps on all of them, far beyond it serves whoever comes.
func hostileWorld(t *testing.T, program string) (near string, closed []string, traps *text) {
	t.Helper()
	near, far := namespaces(t)
	conf := filepath.Join("/etc/netns", near)
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(conf); _ = os.Remove("/etc/netns") })
	vmtest.Write(t, filepath.Join(conf, "resolv.conf"), "nameserver 192.0.2.2\n")
	closed = hostAddresses(t, near)
	side(t, far, program, "outside")
	traps = side(t, near, program, "trap")
	if out, err := exec.Command("ip", "netns", "exec", near, program, "knock", closed[0]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vmtest.Until(t, "a trap that catches", time.Minute, func() bool { return strings.Count(traps.String(), "caught") == 2 })
	traps.clear()

	return near, closed, traps
}

// buildHostile returns the path of the program, alone in its directory.
func buildHostile(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hostile")
	if built := filepath.Join(os.Getenv("BANGER_BIN"), "hostile"); os.Getenv("BANGER_BIN") != "" {
		if out, err := exec.Command("cp", built, program).CombinedOutput(); err != nil {
			t.Skipf("not run: %s", out)
		}
		return program
	}
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "banger/test/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// hostAddresses gives a namespace the addresses that hosts have and no guest may
// reach, and returns them, with others that lead to a host.
func hostAddresses(t *testing.T, ns string) []string {
	t.Helper()
	for _, meta := range []string{"169.254.169.254", "100.100.100.200", "168.63.129.16"} {
		vmtest.IP(t, "-n", ns, "addr", "add", meta+"/32", "dev", "lo")
	}
	vmtest.IP(t, "-n", ns, "link", "add", "docker0", "type", "bridge")
	vmtest.IP(t, "-n", ns, "addr", "add", "172.17.0.1/16", "dev", "docker0")
	vmtest.IP(t, "-n", ns, "link", "set", "docker0", "up")
	return []string{
		"169.254.169.254", "100.100.100.200", "168.63.129.16", "172.17.0.1", "192.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.2.15",
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "255.255.255.255", "192.0.2.255", "224.0.0.1", "240.0.0.1",
		"::1", "::ffff:192.0.2.1", "::ffff:169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "2001:db8::1",
	}
}

// side runs the program in a namespace and returns what it prints after "ready".
func side(t *testing.T, ns, program string, what ...string) *text {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, program}, what...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil {
		t.Fatalf("%q says %q, %v", what, line, err)
	}
	said := &text{}
	go func() { _, _ = io.Copy(said, r) }()
	return said
}

// text is what was written to it, some KiB at most.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.b.Len() < 8<<10 {
		x.b.Write(b)
	}
	return len(b), nil
}

func (x *text) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.b.Reset()
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

const (
	badMiB = 512
	// docs/bounds.md adds these up.
	daemonBound  = 256 << 20
	socketsBound = 548 << 20
)

// watched is the hostile guest's host: what is asked and measured of it.
type watched struct {
	h         *vmtest.Host
	t         *testing.T
	near      string // its network namespace
	bareAt    string // socket of the process that only answers
	bad, good string
	daemon    *api.Client

	mu      sync.Mutex
	answers []time.Duration // of the daemon's list
	bare    []time.Duration // of a process that does nothing else, asked at the same time
	longest time.Duration   // that the daemon took more than that process
	jobs    []time.Duration // of the VM beside it
	before  []time.Duration // its jobs before the hostile guest began
	n       int             // jobs so far
	sum     string          // of the file that the VM beside it has
	peaks   map[string]int64
	group   cgroup.Group
	streams int // held open at a time, at most
	asked   map[string]int
}

func (w *watched) connect() {
	status, err := vmtest.Results[struct{ Socket string }](w.h.OK(w.t, "daemon", "status", "--json"))
	if err != nil || len(status) != 1 {
		w.t.Fatalf("%d daemons, %v", len(status), err)
	}
	w.daemon = api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, status[0].Socket) })
	w.peaks, w.asked = map[string]int64{}, map[string]int{}
}

// every does something until ctx ends, with a pause between.
func every(ctx context.Context, pause time.Duration, do func()) {
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// askBare asks a process that does nothing but answer.
func (w *watched) askBare() time.Duration {
	began := time.Now()
	c, err := net.Dial("unix", w.bareAt)
	if err == nil {
		_, err = c.Read(make([]byte, 16))
		_ = c.Close()
	}
	if err != nil {
		w.t.Errorf("the bare process: %v", err)
	}
	return time.Since(began)
}

// askDaemon lists the VMs. A busy host lets every process wait now and then, so beside
// the daemon one is asked that does nothing else.
func (w *watched) askDaemon(ctx context.Context) {
	every(ctx, 100*time.Millisecond, func() {
		bare := make(chan time.Duration, 1)
		go func() { bare <- w.askBare() }()
		began := time.Now()
		ask, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		vms, err := w.daemon.VMs().VMs(ask)
		took := time.Since(began)
		if err != nil || len(vms) != 2 {
			w.t.Errorf("the daemon lists %d VMs, %v", len(vms), err)
		}
		for _, vm := range vms {
			if vm.State != banger.Running {
				w.t.Errorf("%s is %s: %s", vm.Spec.Name, vm.State, vm.Reason)
			}
		}
		other := <-bare
		w.mu.Lock()
		w.answers, w.bare, w.longest = append(w.answers, took), append(w.bare, other), max(w.longest, took-other)
		w.mu.Unlock()
	})
}

// measure keeps the peaks of what the host's processes hold, in bytes.
func (w *watched) measure(ctx context.Context) {
	bad, daemon := w.h.Show(w.t, w.bad), w.h.Daemon(w.t)
	w.group, _ = cgroup.Of(bad.Held.VMM.PID)
	if !strings.Contains(w.group.Dir, bad.ID) {
		w.group = cgroup.Group{}
	}
	began, told, n := time.Now(), 0, 0
	every(ctx, 500*time.Millisecond, func() {
		found := map[string]int64{"daemon": vmtest.Resident(daemon), "shim": vmtest.Resident(bad.Held.Shim.PID), "VMM": vmtest.BesideGuest(bad.Held.VMM.PID)}
		if used, err := w.group.Usage(); err == nil {
			found["group"] = used
		}
		if n++; n%10 == 1 {
			found["sockets"] = inSockets(w.near)
		}
		for what, now := range found {
			if now == 0 && what != "sockets" {
				w.t.Errorf("the %s is gone", what)
			}
			w.mu.Lock()
			w.peaks[what] = max(w.peaks[what], now)
			w.mu.Unlock()
		}
		if due := int(12 * time.Since(began) / *hostileFor); due > told {
			told = due
			w.t.Logf("after %v, in MiB: %s", time.Since(began).Round(time.Second), mebibytes(found))
		}
	})
}

func mebibytes(of map[string]int64) string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		all = append(all, fmt.Sprintf("%s %d", what, of[what]>>20))
	}
	return strings.Join(all, ", ")
}

// inSockets is what the kernel holds in the sockets of a namespace (ss(8), skmem): what
// was received, and what is to be sent.
func inSockets(ns string) (sum int64) {
	out, _ := exec.Command("ip", "netns", "exec", ns, "ss", "-tuamnH").Output()
	for _, m := range skmem.FindAllSubmatch(out, -1) {
		for _, field := range m[1:] {
			n, _ := strconv.ParseInt(string(field), 10, 64) // digits, by the pattern
			sum += n
		}
	}
	return sum
}

var skmem = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f\d+,w(\d+)`)

const jobData = "/root/data"

func (w *watched) prepareNeighbour() {
	w.sum = w.h.OK(w.t, "vm", "exec", w.good, "--", "sh", "-c", "head -c 4M /dev/urandom >"+jobData+" && sync && sha256sum "+jobData)
}

// trapBeside has the other VM say what gets to it. What it returns asks for that.
func (w *watched) trapBeside(program string) (caught func() string) {
	w.h.OK(w.t, "vm", "cp", program, w.good+":/root/hostile")
	w.h.OK(w.t, "vm", "exec", w.good, "--", "sh", "-c", "/root/hostile trap >/root/caught 2>&1 </dev/null &")
	said := func() string { return w.h.OK(w.t, "vm", "exec", w.good, "--", "cat", "/root/caught") }
	vmtest.Until(w.t, "a trap in the other VM", time.Minute, func() bool { return said() == "ready\n" })
	w.h.OK(w.t, "vm", "exec", w.good, "--", "/root/hostile", "knock", "127.0.0.1")
	vmtest.Until(w.t, "that it catches", time.Minute, func() bool { return strings.Count(said(), "caught") == 2 })
	own := said()
	return func() string { return strings.TrimPrefix(said(), own) }
}

// quiet measures the other VM's job without a hostile guest.
func (w *watched) quiet() {
	for range 5 {
		w.before = append(w.before, w.job())
	}
}

// neighbour has the other VM compute, write and fetch.
func (w *watched) neighbour(ctx context.Context) {
	every(ctx, time.Second, func() {
		took := w.job()
		w.mu.Lock()
		w.jobs = append(w.jobs, took)
		w.mu.Unlock()
	})
	var want strings.Builder
	for i := range w.n {
		fmt.Fprintln(&want, i+1)
	}
	if got := w.h.OK(w.t, "vm", "exec", w.good, "--", "cat", "/root/log"); got != want.String() {
		w.t.Errorf("the VM beside wrote %d bytes of its log, %d are there", want.Len(), len(got))
	}
}

func (w *watched) job() time.Duration {
	w.n++
	began := time.Now()
	r := w.h.Run(nil, "vm", "exec", w.good, "--", "sh", "-c", fmt.Sprintf("echo %d >>/root/log && sync && curl -s -m 60 http://far.example:8000/ && sha256sum %s", w.n, jobData))
	if want := "served\n" + w.sum; r.Status != 0 || string(r.Stdout) != want {
		w.t.Errorf("job %d of the VM beside: status %d, %q, want %q: %s", w.n, r.Status, r.Stdout, want, r.Stderr)
	}
	return time.Since(began)
}

// clients ask the hostile guest, believing that it is none. What they get doesn't matter.
func (w *watched) clients(ctx context.Context) {
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return w.daemon.VMs().Dial(ctx, w.bad) }}
	asks := map[string]func(context.Context){
		"health":   func(ctx context.Context) { _, _ = c.Health(ctx) },
		"sessions": func(ctx context.Context) { _, _ = c.Sessions(ctx) },
		"exec": func(ctx context.Context) {
			_, _ = c.Exec(ctx, guest.ExecSpec{Argv: []string{"true"}, Stdin: true}, guest.IO{Stdin: zeros{}, Stdout: io.Discard, Stderr: io.Discard})
		},
		"watch": func(ctx context.Context) { _ = c.Watch(ctx, func(guest.Notice) {}) },
		"logs": func(ctx context.Context) {
			if r, err := w.daemon.VMs().Logs(ctx, w.bad, false); err == nil {
				_, _ = io.Copy(io.Discard, r)
				_ = r.Close()
			}
		},
	}
	var all sync.WaitGroup
	for what, ask := range asks {
		for range 2 {
			all.Go(func() {
				every(ctx, 50*time.Millisecond, func() {
					ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
					defer cancel()
					ask(ctx)
					w.mu.Lock()
					w.asked[what]++
					w.mu.Unlock()
				})
			})
		}
	}
	all.Wait()
}

// holdStreams opens as many streams as there may be, says a little on each and reads
// nothing.
func (w *watched) holdStreams(ctx context.Context) {
	most := hold(ctx, func(ctx context.Context) (net.Conn, error) { return w.daemon.VMs().Dial(ctx, w.bad) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = most
}

// hold opens as many streams as there may be, again and again, says a little on each and
// reads nothing. It returns how many there were at a time.
func hold(ctx context.Context, open func(context.Context) (net.Conn, error)) (most int) {
	every(ctx, time.Second, func() {
		var held []net.Conn
		for range 1200 {
			dial, cancel := context.WithTimeout(ctx, time.Second)
			conn, err := open(dial)
			cancel()
			if err != nil {
				break
			}
			held = append(held, conn)
			_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = conn.Write(make([]byte, 1+rand.IntN(100<<10)))
		}
		most = max(most, len(held))
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
		for _, conn := range held {
			_ = conn.Close()
		}
	})
	return most
}

// commands are those of a user who doesn't know what is in the VM.
func (w *watched) commands(ctx context.Context) {
	dir := w.t.TempDir()
	all := [][]string{{"vm", "exec", w.bad, "--", "true"}, {"vm", "show", w.bad}, {"vm", "logs", w.bad}, {"vm", "cp", w.bad + ":/churn", dir}, {"ps"}}
	n := 0
	every(ctx, time.Second, func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		cmd := w.h.Command(ctx, all[n%len(all)]...)
		cmd.WaitDelay = time.Second
		_ = cmd.Run()
		n++
	})
}

// report prints the figures, and fails on what is out of bounds.
func (w *watched) report(caught string) {
	slices.Sort(w.answers)
	slices.Sort(w.jobs)
	slices.Sort(w.before)
	if len(w.answers) == 0 || len(w.jobs) == 0 {
		w.t.Fatalf("%d answers of the daemon, %d jobs of the VM beside", len(w.answers), len(w.jobs))
	}
	at := func(d []time.Duration, share float64) time.Duration {
		return d[min(len(d)-1, int(share*float64(len(d))))].Round(time.Millisecond)
	}
	w.t.Logf("the daemon's list, n=%d: median %v, 99 %% %v, 99.9 %% %v, slowest %v", len(w.answers), at(w.answers, 0.5), at(w.answers, 0.99), at(w.answers, 0.999), at(w.answers, 1))
	slices.Sort(w.bare)
	w.t.Logf("a process that only answers, at the same times: median %v, 99 %% %v, 99.9 %% %v, slowest %v; the daemon took up to %v longer", at(w.bare, 0.5), at(w.bare, 0.99), at(w.bare, 0.999), at(w.bare, 1), w.longest.Round(time.Millisecond))
	w.t.Logf("jobs of the VM beside, n=%d: median %v, slowest %v; before, n=%d: median %v", len(w.jobs), at(w.jobs, 0.5), at(w.jobs, 1), len(w.before), at(w.before, 0.5))
	w.t.Logf("streams held at a time: %d; asked %v", w.streams, w.asked)
	if w.longest > time.Second && *hostileFor >= 10*time.Minute {
		w.t.Errorf("the daemon took %v longer to list the VMs than another process to answer", w.longest)
	}
	if most, err := w.group.Bound(); err == nil {
		w.t.Logf("peak of the VM's control group: %d MiB, page cache and all, bound %d MiB; %d of its processes killed for want of memory", w.peaks["group"]>>20, most>>20, w.group.Kills())
		if most != shim.MemoryBound(badMiB) || w.group.Kills() != 0 {
			w.t.Errorf("the group's bound is %d", most)
		}
	} else {
		w.t.Log("no control group bounds the VM's memory here")
	}
	for what, most := range map[string]int64{"daemon": daemonBound, "shim": shim.OwnBound, "VMM": shim.VMMBound} {
		w.t.Logf("peak of the %s: %d MiB, bound %d MiB", what, w.peaks[what]>>20, most>>20)
		if w.peaks[what] > most {
			w.t.Errorf("the %s went beyond its bound", what)
		}
	}
	w.t.Logf("peak of what the kernel holds in the network's sockets: %d MiB, bound %d MiB", w.peaks["sockets"]>>20, socketsBound>>20)
	if w.peaks["sockets"] > socketsBound {
		w.t.Error("the kernel holds more for the guest than it should")
	}
	if caught != "" {
		w.t.Errorf("the guest got to where it may not:\n%s", caught)
	}
	logs := string(w.h.Run(nil, "vm", "logs", w.bad).Stdout)
	var cannot []string
	if *vmtest.Network == "bridge" {
		cannot = append(cannot, "unacknowledged connections") // the bridge drops what comes from another's address
	}
	if *vmtest.Hypervisor == "uml" {
		cannot = append(cannot, "oversized frames") // only its kernel could send them: see TestHostileVMM
	}
	checkAttacks(w.t, logs, cannot...)
}

// checkAttacks fails where nothing came of an attack that can be made here, by a console's log.
func checkAttacks(t *testing.T, logs string, cannot ...string) {
	t.Helper()
	_, counts, ok := strings.Cut(logs[max(0, strings.LastIndex(logs, "hostile: {")):], "hostile: ")
	counts, _, _ = strings.Cut(counts, "\n")
	t.Logf("what the guest did: %s", counts)
	done := map[string]any{}
	if err := json.Unmarshal([]byte(counts), &done); err != nil || !ok {
		t.Errorf("the guest doesn't say what it did: %v", err)
	}
	for what, n := range done {
		if n == 0.0 && !slices.Contains(cannot, what) {
			t.Errorf("nothing came of the attack %q: %v", what, done["error of "+what])
		}
	}
}

// A program in a VMM's place does on the shim's sockets what a guest of the host's own
// speed would do; an emulated one does it slowly. The shim stays within its bound and
// answers.
func TestHostileVMM(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	program := buildHostile(t)
	near, closed, traps := hostileWorld(t, program)
	last := *hostileFor / 3 // it is quick
	orders, err := json.Marshal(map[string]any{"outside": "192.0.2.2", "gateway": "10.0.2.2", "closed": closed, "slice": min(last/20, 10*time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "0123456789ab")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, err := json.Marshal(shim.Config{
		ID: "0123456789ab", Dir: dir, Argv: []string{program, "vmm", string(orders)}, Channel: "chan.sock", Console: "console.sock",
		Net: &shim.NetConfig{MAC: "02:01:02:03:04:05", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3", Local: "net-vmm.sock", Remote: "net-shim.sock"},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", near, filepath.Join(vmtest.Shared.Bin, "banger-shim"), dir)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(cfg), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var st shim.Status
	vmtest.Until(t, "the shim", time.Minute, func() bool { st, err = shim.Ask(t.Context(), dir); return err == nil })
	t.Cleanup(func() {
		if err := proc.Kill(st.VMM, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error("the shim:", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), last)
	defer cancel()
	var peak, sockets int64
	var slowest time.Duration
	most := 0
	var all sync.WaitGroup
	dial := func(ctx context.Context) (net.Conn, error) { return shim.Dial(ctx, dir) }
	all.Go(func() { most = hold(ctx, dial) })
	all.Go(func() {
		c := guest.Client{Dial: dial}
		every(ctx, 50*time.Millisecond, func() {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, _ = c.Exec(ctx, guest.ExecSpec{Argv: []string{"true"}}, guest.IO{Stdout: io.Discard})
		})
	})
	every(ctx, 200*time.Millisecond, func() {
		began := time.Now()
		if _, err := shim.GetStatus(t.Context(), dir); err != nil {
			t.Errorf("the shim doesn't answer: %v", err)
		}
		slowest = max(slowest, time.Since(began))
		peak, sockets = max(peak, vmtest.Resident(st.Shim.PID)), max(sockets, inSockets(near))
	})
	all.Wait()
	t.Logf("%v: peak of the shim %d MiB, of its sockets %d MiB; %d streams held; its slowest answer took %v", last, peak>>20, sockets>>20, most, slowest)
	if peak == 0 || peak > shim.OwnBound || sockets > socketsBound {
		t.Errorf("the shim went beyond its bounds: %d MiB, in sockets %d MiB", peak>>20, sockets>>20)
	}
	if caught := traps.String(); caught != "" {
		t.Errorf("the guest got to where it may not:\n%s", caught)
	}
	log, err := os.ReadFile(filepath.Join(dir, shim.VMMLog))
	if err != nil {
		t.Fatal(err)
	}
	checkAttacks(t, string(log))
}
