package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// step is one test binary's run in the lab.
type step struct {
	name, what string
	pkg        string // the directory its package is in
	args       []string
	needs      string // a binary that isn't in the lab by itself
	flag       bool   // runs only when -only names it
	user       bool   // runs as the lab's ordinary user
	cuts       bool   // the power is cut under it, again and again
	plant      string // the mistake that it has to find, by its name in plants; "": none
	without    string // why it isn't run
	takes      int    // seconds on two quiet cores, about: what labs at once share the steps by
}

// allSteps are all that the lab can run, in order. Guests boot in 11 to 15 s
// there, and that is what the choice of tests costs.
func allSteps(o options) []step {
	return []step{
		{name: "host", takes: 3, what: "the lab is what it should be: KVM works, device-mapper, systemd", pkg: "test/lab/inside", args: []string{"-test.run=^TestHost$"}},
		{name: "scripts", takes: 600, what: "the scripts of test/scripts on QEMU+KVM", pkg: "test/scripts", args: []string{"-test.run=^TestScripts$", "-host=qemu"}},
		{name: "main-job", takes: 300, what: "a repository's tests in a VM, and their exit status, on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=^(TestRunRepository|TestExitStatus)$"}},
		{name: "dmsnap", takes: 45, what: "disk contract suite on device-mapper", pkg: "disk/dmsnap"},
		{name: "bridge", takes: 16, what: "network contract suite on a bridge with nftables", pkg: "network/bridge"},
		{name: "cgroup", takes: 3, what: "a bound on memory by systemd, as root", pkg: "host/cgroup"},
		{name: "kvm", what: "the KVM probe's own tests", pkg: "vmm/kvm"},
		{name: "qemu-contract", takes: 110, what: "hypervisor contract suite on QEMU+KVM", pkg: "vmm/qemu", args: []string{"-test.run=^TestContract$"}},
		{name: "seed", takes: 110, what: "process, TAP, loops and device of running VMs: found again, torn down, kept in the record while busy", pkg: "test/crash", args: hostDrivers("^TestSeed$")},
		{name: "handles", takes: 400, what: "and torn down whatever became of handles.json", pkg: "test/crash", args: hostDrivers("^TestHandlesFile$")},
		{name: "bridge-vms", what: "two VMs on the bridge: out, each other, the host, only as config.toml allows", pkg: "test/vm", args: []string{"-test.run=^TestBridgeNetwork$", "-net=bridge"}},
		{name: "storm", takes: 435, what: "daemon, shim, CLI and VMM killed at random, with all the host's drivers", pkg: "test/crash", args: append(hostDrivers("^TestCrashStorm$"), fmt.Sprintf("-storm-kills=%d", o.kills))},
		{name: "logout", what: "logind's logout, with and without linger", pkg: "test/lab/inside", args: []string{"-test.run=^TestLogout$"}},
		{name: "firecracker", takes: 170, what: "hypervisor contract suite and more on Firecracker, as root", pkg: "vmm/firecracker", args: []string{"-test.skip=Jail|OnFake"}, needs: "firecracker"},
		{name: "firecracker-jail", takes: 170, what: "the same under its jailer", pkg: "vmm/firecracker", args: []string{"-test.run=Jail"}, needs: "jailer"},
		{name: "firecracker-user", takes: 170, what: "the same as a user without root", pkg: "vmm/firecracker", args: []string{"-test.skip=Jail|OnFake"}, needs: "firecracker", user: true},
		{name: "firecracker-main-job", what: "a repository's tests in a VM, and their exit status, on Firecracker in its jail", pkg: "test/vm", args: []string{"-test.run=^(TestRunRepository|TestExitStatus)$", "-hypervisor=firecracker"}, needs: "jailer"},
		{name: "firecracker-main-job-user", what: "the same as a user without root", pkg: "test/vm", args: []string{"-test.run=^(TestRunRepository|TestExitStatus)$", "-hypervisor=firecracker"}, needs: "firecracker", user: true},
		{name: "firecracker-net", what: "a guest's traffic through the user network, on Firecracker in its jail", pkg: "test/vm", args: []string{"-test.run=^TestUserNetwork$", "-hypervisor=firecracker"}, needs: "jailer"},
		{name: "firecracker-scripts", takes: 900, what: "the scripts of test/scripts on Firecracker in its jail", pkg: "test/scripts", args: []string{"-test.run=^TestScripts$", "-host=qemu", "-hypervisor=firecracker"}, needs: "jailer"},
		{name: "firecracker-seed", takes: 600, what: "the seed on Firecracker in its jail", pkg: "test/crash", args: append(hostDrivers("^(TestSeed|TestHandlesFile)$"), "-hypervisor=firecracker"), needs: "jailer"},
		{name: "firecracker-storm", what: "daemon, shim, CLI and Firecracker killed at random, with all the host's drivers", pkg: "test/crash", args: append(hostDrivers("^TestCrashStorm$"), fmt.Sprintf("-storm-kills=%d", o.kills), "-hypervisor=firecracker"), needs: "jailer"},
		{name: "firecracker-cold", what: "a cold start beside the least that drives Firecracker, 10 of each", pkg: "vmm/firecracker", args: []string{"-test.run=^TestColdStart$", "-cold-runs=10"}, needs: "firecracker", flag: true},
		{name: "warm", takes: 1070, what: "VMs from one template at once, and from a damaged one, on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=" + warmTests}, flag: true},
		{name: "image-template", takes: 600, what: "VMs from an image template, on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=^TestImageTemplate$"}, flag: true},
		{name: "firecracker-warm-vms", takes: 670, what: "VMs from one template at once, and from a damaged one, on Firecracker in its jail", pkg: "test/vm", args: []string{"-test.run=" + warmTests, "-hypervisor=firecracker"}, needs: "jailer", flag: true},
		{name: "firecracker-image-template", takes: 400, what: "VMs from an image template, on Firecracker in its jail", pkg: "test/vm", args: []string{"-test.run=^TestImageTemplate$", "-hypervisor=firecracker"}, needs: "jailer", flag: true},
		{name: "warm-bench", takes: 300, what: "a warm start beside plain QEMU restoring the same template, 10 of each, on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10"}, flag: true},
		{name: "image-template-bench", takes: 400, what: "the same from an image template", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10", "-bench-only=image template"}, flag: true},
		{name: "firecracker-warm-bench", takes: 400, what: "a warm start by the command beside plain Firecracker loading the same template, 10 of each, as a user without root", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10", "-hypervisor=firecracker"}, needs: "firecracker", flag: true, user: true},
		{name: "firecracker-image-template-bench", takes: 500, what: "the same from an image template", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10", "-bench-only=image template", "-hypervisor=firecracker"}, needs: "firecracker", flag: true, user: true},
		{name: "cold-bench", takes: 300, what: "a cold start beside plain QEMU to /init, 10 of each, on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10", "-bench-only=cold start", "-busybox"}, flag: true},
		{name: "firecracker-cold-bench", what: "a cold start by the command beside the least that drives Firecracker, 10 of each, as a user without root", pkg: "test/vm", args: []string{"-test.run=^TestBench$", "-bench-runs=10", "-bench-only=cold start", "-busybox", "-hypervisor=firecracker"}, needs: "firecracker", flag: true, user: true},
		{name: "firecracker-warm", what: "a start from a template beside the least that loads it, 10 of each", pkg: "vmm/firecracker", args: []string{"-test.run=^TestWarmStart$", "-warm-runs=10"}, needs: "firecracker", flag: true},
		{name: "firecracker-exec", what: "a command's round trip beside the guest's own cost of it, on Firecracker", pkg: "test/vm", args: []string{"-test.run=^TestExecCost$", "-exec-runs=200", "-busybox", "-hypervisor=firecracker"}, needs: "jailer", flag: true},
		{name: "exec", what: "the same on QEMU+KVM", pkg: "test/vm", args: []string{"-test.run=^TestExecCost$", "-exec-runs=200", "-busybox"}, flag: true},
		{name: "power-cuts", takes: 30 + 115*o.cuts, what: "the lab's power cut in the middle of an operation or right after it, and what wasn't flushed lost", pkg: "test/lab/inside", args: []string{"-test.run=^TestPowerCut$"}, cuts: true},
		{name: "firecracker-power-cuts", takes: 30 + 115*o.cuts, what: "the same with VMs on Firecracker in its jail", pkg: "test/lab/inside", args: []string{"-test.run=^TestPowerCut$", "-hypervisor=firecracker"}, needs: "jailer", cuts: true},
		planted("records", "the database never synced"),
		planted("images", "an image's file not synced before it has its name"),
		planted("guests", "a VMM that doesn't pass its guest's flushes on"),
		{name: "qemu-all", what: "all of the QEMU driver's tests on KVM", pkg: "vmm/qemu", flag: true},
		{name: "vm-all", what: "all of first light's tests on QEMU+KVM", pkg: "test/vm", flag: true},
	}
}

// planted is a step of power cuts that have to find a mistake.
func planted(name, what string) step {
	return step{name: "planted-" + name, takes: 400, what: "power cuts find a planted mistake: " + what, pkg: "test/lab/inside", args: []string{"-test.run=^TestPowerCut$"}, cuts: true, flag: true, plant: name}
}

const warmTests = "^(TestWarmStartsAreStrangers|TestDamagedTemplate)$"

// hostDrivers are the arguments of test/crash that give VMs all they can hold of a host.
func hostDrivers(run string) []string {
	return []string{"-test.run=" + run, "-disk-driver=dm-snapshot", "-net=bridge"}
}

// choose parts the steps into those to run and those left out, which know why.
func choose(o options) (run, left []step) {
	for _, s := range allSteps(o) {
		if _, err := os.Stat(s.pkg); err != nil {
			continue // not in this tree
		}
		named := o.only.String() != ""
		switch {
		case named && !o.only.MatchString(s.name):
			continue
		case s.cuts && o.cuts == 0:
			s.without = "ask with -cuts 3"
		case s.flag && !named:
			s.without = "ask with -only " + s.name
		case s.needs != "" && program(o, s.needs) == "":
			s.without = "binary missing: " + s.needs
		case o.skip.MatchString(s.name):
			s.without = "left out by -skip"
		}
		if s.without != "" {
			left = append(left, s)
		} else {
			run = append(run, s)
		}
	}
	return run, left
}

// share gives each of n labs its steps, in order, so that all end at about the
// same time.
func share(steps []step, n int) [][]step {
	longest := slices.SortedStableFunc(slices.Values(steps), func(a, b step) int { return b.takes - a.takes })
	sums, of := make([]int, max(1, n)), map[string]int{}
	for _, s := range longest {
		i := slices.Index(sums, slices.Min(sums))
		sums[i] += max(1, s.takes)
		of[s.name] = i
	}
	parts := make([][]step, len(sums))
	for _, s := range steps {
		parts[of[s.name]] = append(parts[of[s.name]], s)
	}
	return slices.DeleteFunc(parts, func(p []step) bool { return len(p) == 0 })
}

// program finds a program that the user brings, by the environment's word or in
// the cache folder; "" when there is none.
func program(o options, name string) string {
	if path := os.Getenv("BANGER_" + strings.ToUpper(name)); path != "" {
		return path
	}
	path := filepath.Join(o.cache, name)
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	return path
}

// script is what the lab runs, on its second disk. Each step tells its beginning
// and end on a line of its own. A test that hangs is told while the lab has time
// left to say where.
func script(steps []step, deadline time.Duration) string {
	var b strings.Builder
	b.WriteString(`export PATH=/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export BANGER_BIN=/lab/bin BANGER_LAB=/lab XDG_CACHE_HOME=/lab/cache TMPDIR=/lab/tmp
export BANGER_FIRECRACKER= BANGER_JAILER=
[ -e vmm/firecracker ] && BANGER_FIRECRACKER=/lab/vmm/firecracker
[ -e vmm/jailer ] && BANGER_JAILER=/lab/vmm/jailer
failed=0
(cd / && while sleep 5; do echo ` + alive + `; done) &
alive=$!
# What an ordinary user has: the same kernels and images, as files of his own.
as_user() {
	if [ ! -d /lab/user ]; then
		mkdir -p /lab/user/tmp
		cp -a /lab/cache /lab/user/cache
		chown -R user: /lab/user
	fi
	exec runuser -u user -- env HOME=/lab/user XDG_CACHE_HOME=/lab/user/cache TMPDIR=/lab/user/tmp "$@"
}
step() {
	name=$1 dir=$2
	shift 2
	echo "LAB-STEP $name"
	(cd "/lab/src/$dir" && case $1 in as_user) "$@" ;; *) exec "$@" ;; esac)
	status=$?
	[ $status = 0 ] || failed=1
	sync
	echo "LAB-DONE $name $status"
}
`)
	for _, s := range steps {
		as := ""
		if s.user {
			as = "as_user "
		}
		fmt.Fprintf(&b, "step '%s' '%s' %s./%s.test -test.v -test.timeout=%v", s.name, s.pkg, as, filepath.Base(s.pkg), deadline*3/4)
		for _, a := range s.args {
			fmt.Fprintf(&b, " '%s'", a)
		}
		b.WriteString("\n")
	}
	b.WriteString("kill $alive\nexit $failed\n")
	return b.String()
}
