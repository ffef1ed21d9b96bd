// Package native compares a VM with a container of the same root, whose programs run on the
// host's own kernel. It knows VMs as the command line's user does.
package native

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// works are shell commands of real work. Each sees an empty directory that it is in, and as
// $C a C file of 300 functions.
var works = []struct{ name, command string }{
	{"gcc -O2, a C file", "gcc -O2 -c -o out.o $C"},
	{"100 processes", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done"},
	{"perl, 300,000 appends to a hash", `perl -e 'for (1..300000) { $h{$_ % 5000} .= "x$_" } print length($h{7}), "\n"'`},
	{"sha256 of 64 MB", "head -c 64M /dev/zero | sha256sum"},
	{"tar of /usr/share/perl", "tar -cf t.tar -C /usr/share perl"},
	{"untar of that, sync", "tar -xf t.tar && sync ."},
	{"git add and commit of that", "git init -q r && cp -r perl r && cd r && git add -A && git -c user.name=a -c user.email=a@b commit -qm x"},
	{"git clone of that", "git clone -q --no-local r c"},
	{"write 200 MB, fsync", "dd if=/dev/zero of=big bs=1M count=200 conv=fsync status=none"},
	{"200,000 system calls, half reads", "dd if=/dev/zero of=/dev/null bs=1 count=100000 status=none"},
}

// script times all works on one CPU and prints nanoseconds, a line for each.
func script() string {
	var b strings.Builder
	b.WriteString(`systemctl is-system-running --wait >/dev/null 2>&1 # a VM's init works and empties /tmp at first; a container has none
set -e; d=$(mktemp -d /var/tmp/bench.XXXXXX); export LC_ALL=C HOME=$d TMPDIR=$d C=$d/f.c; cd $d
i=0; while [ $i -lt 300 ]; do echo "int f$i(const char *s, int n) { int r = $i; for (int i = 0; i < n; i++) switch (s[i] & 7) { case 0: r += i; break; case 1: r ^= s[i]; break; case 2: r *= 3; break; default: r -= f$((i / 2))(s + 1, n - $i % 3 - 1); } return r; }"; i=$((i+1)); done > $C
`)
	for _, w := range works {
		fmt.Fprintf(&b, "t=$(date +%%s%%N); (%s) >/dev/null; echo $(($(date +%%s%%N) - t))\n", w.command)
	}
	return b.String() + "cd /; rm -rf $d\n"
}

// Run times cold starts to the output and real work n times in each, in turn, and prints
// them. It needs podman, and an image with gcc, git and perl: "" is debian-12.
func Run(ctx context.Context, banger, image string, n int) error {
	run := func(argv ...string) ([]byte, error) {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%v: %w: %s", argv[:2], err, e.Stderr)
		}
		return out, err
	}
	if image == "" {
		image = "debian-12"
	}
	out, err := run("sh", "-c", fmt.Sprintf("%s image export %s - | podman load -q", banger, image))
	said := strings.Fields(string(out)) // "Loaded image: NAME"
	if err != nil || len(said) == 0 {
		return fmt.Errorf("the VM's image as a container's: %w: %s", err, out)
	}
	name := said[len(said)-1]
	defer func() { _, _ = run("podman", "rmi", "-f", name) }()
	container := []string{"podman", "run", "--rm", "--network=none", name}
	vm := []string{banger, "vm", "run", "--rm", "--net", "none", "--image", image, "--"}
	took := map[string]map[string][]time.Duration{"container": {}, "VM": {}}
	for range n {
		for kind, argv := range map[string][]string{"container": container, "VM": vm} {
			start := time.Now()
			if _, err := run(append(argv, "echo", "up")...); err != nil {
				return err
			}
			took[kind]["cold start, echo, and its end"] = append(took[kind]["cold start, echo, and its end"], time.Since(start))
			out, err := run(append(argv, "taskset", "-c", "0", "sh", "-c", script())...)
			if err != nil {
				return err
			}
			lines := strings.Fields(string(out))
			if len(lines) != len(works) {
				return fmt.Errorf("the %s says %q", kind, out)
			}
			for i, w := range works {
				ns, _ := strconv.ParseInt(lines[i], 10, 64) // of the shell's own arithmetic
				took[kind][w.name] = append(took[kind][w.name], time.Duration(ns))
			}
		}
	}
	for _, name := range append([]string{"cold start, echo, and its end"}, names()...) {
		c, v := took["container"][name], took["VM"][name]
		fmt.Printf("%-34s container %10v  VM %10v  ratio %.2f\n", name, median(c).Round(100*time.Microsecond), median(v).Round(100*time.Microsecond), float64(median(v))/float64(median(c)))
	}
	return nil
}

// names are those of all works.
func names() (all []string) {
	for _, w := range works {
		all = append(all, w.name)
	}
	return all
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
