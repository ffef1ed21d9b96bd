package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"

	"banger"
	"banger/cli"
)

// fresh is a host that has neither kernel nor image, and notes what is done to it.
type fresh struct {
	banger.SystemService
	banger.ImageService
	banger.KernelService
	banger.VMService
	report banger.Report
	did    []string
	asked  int // what is missing
}

func (f *fresh) Missing(_ context.Context, spec banger.Spec) ([]banger.Missing, error) {
	f.asked++
	if spec.Image == "nosuch" {
		return nil, banger.Errorf(banger.CodeNotFound, "no image %q", spec.Image)
	}
	return []banger.Missing{
		{Kind: "kernel", Name: "cloud", Source: "http://mirror/debian", Download: 40 << 20, Disk: 140 << 20, Seconds: 20, Why: map[bool]string{true: "2 CPUs"}[spec.VCPU == 2]},
		{Kind: "image", Name: "debian-13", Source: "http://mirror/debian", Download: 130 << 20, Disk: 400 << 20, Seconds: 180},
	}, nil
}

func (f *fresh) Image(_ context.Context, ref string) (banger.Image, error) {
	return banger.Image{}, banger.Errorf(banger.CodeNotFound, "no image %q", ref)
}

func (f *fresh) PullImage(_ context.Context, what banger.Pull, _ banger.Progress) (banger.Image, error) {
	f.did = append(f.did, "pull "+what.Ref+map[bool]string{true: " insecurely"}[what.Insecure])
	if what.Ref == "nosuch" {
		return banger.Image{}, banger.Errorf(banger.CodeNotFound, "docker.io has no image %q", what.Ref)
	}
	return banger.Image{Name: what.Ref}, nil
}

func (f *fresh) PullKernel(_ context.Context, name string, update bool, p banger.Progress) (banger.Kernel, error) {
	f.did = append(f.did, fmt.Sprintf("kernel %s %v", name, update))
	p(banger.Event{Stage: "kernel", Message: strings.Repeat("x", 60), Done: 1 << 20, Total: 4 << 20})
	return banger.Kernel{}, nil
}

func (f *fresh) BuildImage(_ context.Context, r banger.Recipe, _ banger.Progress) (banger.Image, error) {
	f.did = append(f.did, fmt.Sprintf("image %s minimal=%v replace=%v", r.Name, r.Minimal, r.Replace))
	return banger.Image{Name: r.Name}, nil
}

func (f *fresh) CreateVM(_ context.Context, spec banger.Spec, _ bool, _ banger.Progress) (banger.VM, error) {
	f.did = append(f.did, "vm")
	return banger.VM{Spec: banger.Spec{Name: "web"}}, nil
}

type host struct {
	cli.Daemon
	report banger.Report
}

func (h host) Examine(context.Context) (banger.Report, error) { return h.report, nil }

func (f *fresh) run(in io.Reader, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = cli.Run(context.Background(), f.app(in, &out, &errs), args)
	return status, out.String(), errs.String()
}

func (f *fresh) app(in io.Reader, out, errs io.Writer) cli.App {
	parts := banger.Parts{Whole: f, Image: f, Kernel: f, VM: struct {
		banger.VMService
		banger.VMControl
		banger.Leases
	}{VMService: f}}
	return cli.App{In: in, Out: out, Err: errs, Services: parts, Daemon: host{report: f.report}}
}

// What the first VM needs is told in one list, made after a person agreed or -y, and in
// order; without either nothing is done.
func TestFirstRun(t *testing.T) {
	all := []string{"kernel cloud false", "image debian-13 minimal=true replace=false", "vm"}
	list := []string{
		"kernel cloud: about 40.0 MiB from http://mirror/debian, 140.0 MiB on disk, 20 s",
		"image debian-13: about 130.0 MiB from http://mirror/debian, 400.0 MiB on disk, 3 min",
	}
	larger := "banger image build --replace debian-13"
	for _, c := range []struct {
		typed  string // on a terminal; "": there is none
		args   string
		status int
		did    []string
		says   []string
	}{
		{"", "vm create", cli.ExitInvalid, nil, append(list, "`banger vm create -y` fetches and makes it")},
		{"", "run -- true", cli.ExitOwn, nil, append(list, "`banger run -y` fetches and makes it")},
		{"", "vm create -y", 0, all, append(list, larger)},
		{"", "vm create --yes --no-start", 0, all, append(list, larger)},
		{"", "vm create --cpus 2", cli.ExitInvalid, nil, []string{"kernel cloud (2 CPUs): about 40.0 MiB"}},
		{"\n", "vm create", 0, all, append(list, "fetch 170.0 MiB and make it, in about 3 min? [Y/n] ", larger)},
		{"y\n", "vm create -q", 0, all, list},
		{"n\n", "vm create", cli.ExitInterrupted, nil, append(list, "nothing was done")},
		{"\x04", "vm create", cli.ExitInterrupted, nil, []string{"nothing was done"}},
		{"", "vm create -y --image nosuch", cli.ExitNotFound, []string{"pull nosuch"}, []string{`docker.io has no image "nosuch"`}},
		{"", "vm create -y --image nosuch --insecure", cli.ExitNotFound, []string{"pull nosuch insecurely"}, []string{`docker.io has no image "nosuch"`}},
		{"", "vm create -y --image nosuch --pull never", cli.ExitNotFound, nil, []string{`no image "nosuch"`}},
	} {
		f := &fresh{report: banger.Report{Ready: true}}
		var in io.Reader = strings.NewReader("")
		if c.typed != "" {
			pt, tty, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pt.WriteString(c.typed); err != nil {
				t.Fatal(err)
			}
			in = tty
			defer func(all ...*os.File) { _, _ = all[0].Close(), all[1].Close() }(pt, tty)
		}
		status, _, stderr := f.run(in, strings.Fields(c.args)...)
		if status != c.status || !slices.Equal(f.did, c.did) {
			t.Errorf("%q %s: status %d, did %q: %s", c.typed, c.args, status, f.did, stderr)
		}
		if f.asked != 1 {
			t.Errorf("%s: asked %d times what is missing", c.args, f.asked)
		}
		for _, want := range c.says {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q %s: no %q in %s", c.typed, c.args, want, stderr)
			}
		}
	}
	f := &fresh{report: banger.Report{Ready: true}}
	if status, _, stderr := f.run(strings.NewReader(""), "vm", "create", "-y", "-q"); status != 0 || stderr != "" {
		t.Errorf("quiet: status %d, %s", status, stderr)
	}
}

// On a narrow terminal a long name gives way, not how far it is.
func TestNarrowProgress(t *testing.T) {
	pt, tty, err := pty.Open() // 80 columns, as it doesn't say
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pt.Close() }()
	go func() {
		f := &fresh{}
		app := f.app(strings.NewReader(""), io.Discard, tty)
		app.Term = "vt100"
		_ = cli.Run(context.Background(), app, []string{"kernel", "pull", "--color=never"})
		_ = tty.Close()
	}()
	shown, _ := io.ReadAll(pt) // ends with EIO when the other side is closed
	for _, line := range strings.Split(string(shown), "\r\x1b[K") {
		if len(line) >= 80 || strings.Contains(line, "xxx") && !strings.HasSuffix(line, "... [#####...............] 25% of 4.0 MiB") {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	if !strings.Contains(string(shown), "xxx...") {
		t.Errorf("%q", shown)
	}
}

// Where no VM can run, nothing is fetched to learn that.
func TestFirstRunNowhere(t *testing.T) {
	f := &fresh{report: banger.Report{Checks: []banger.Check{
		{Name: "kvm", Level: banger.LevelWarn, Found: "none"},
		{Name: "qemu", Level: banger.LevelFail, Found: "no qemu-system-x86_64", Mend: "apt-get install qemu-system-x86"},
	}}}
	status, _, stderr := f.run(strings.NewReader(""), "vm", "create", "-y")
	want := "VMs can't run on this host yet: qemu: no qemu-system-x86_64\n  apt-get install qemu-system-x86; `banger doctor` says more"
	if status != cli.ExitUnavailable || f.did != nil || !strings.Contains(stderr, want) {
		t.Errorf("status %d, did %q: %s", status, f.did, stderr)
	}
}
