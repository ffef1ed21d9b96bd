package vm_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/test/vmtest"
)

// fresh is an installation that has neither kernel nor image, nor anything fetched.
func fresh(t *testing.T) (h *vmtest.Host, dir string) {
	t.Helper()
	dir = t.TempDir()
	var env []string
	for _, kind := range []string{"state", "data", "cache"} {
		env = append(env, "XDG_"+strings.ToUpper(kind)+"_HOME="+filepath.Join(dir, kind))
	}
	h = vmtest.Shared.With(env...)
	h.State = filepath.Join(dir, "state")
	t.Cleanup(h.Close)
	return h, dir
}

// Two first runs at once, whose daemon is killed while packages come, and again while they
// are configured: nothing half made is left, and the next two go on and make each thing once.
func TestFirstRun(t *testing.T) {
	vmtest.TakesLong(t)
	h, dir := fresh(t)
	if r := h.Run(nil, "run", "--rm", "--", "true"); r.Status != 125 || !strings.Contains(string(r.Stderr), "`banger run -y`") {
		t.Fatalf("without a terminal: status %d, %s", r.Status, r.Stderr)
	}
	fetched := func() []string { // whole packages and indexes
		all, _ := filepath.Glob(filepath.Join(dir, "cache/banger/packages/*"))
		return slices.DeleteFunc(all, func(path string) bool { return len(filepath.Base(path)) != 64 })
	}
	builder := func() bool {
		for _, vm := range h.List(t) {
			if strings.HasPrefix(vm.Spec.Name, "build-") && vm.State == "running" {
				return true
			}
		}
		return false
	}
	some := func() bool { return len(fetched()) > 20 }
	for _, step := range []struct {
		what    string
		reached func() bool
	}{{"fetching", some}, {"configuring", builder}} {
		what, reached := step.what, step.reached
		both := twoRuns(t, h)
		for !reached() {
			select {
			case r := <-both:
				t.Fatalf("%s: it ended before: status %d, %s", what, r.Status, r.Stderr)
			case <-time.After(20 * time.Millisecond):
			}
		}
		if err := syscall.Kill(h.Daemon(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if r := <-both; r.Status != 125 || !strings.Contains(string(r.Stderr), "what was fetched is kept") {
				t.Errorf("%s: killed: status %d, %s", what, r.Status, r.Stderr)
			}
		}
		if out := h.OK(t, "image", "list", "--json"); !strings.Contains(out, `"results":[]`) {
			t.Errorf("%s: killed, and there is an image: %s", what, out)
		}
	}
	before := map[string]fs.FileInfo{}
	for _, path := range fetched() {
		before[path] = info(t, path)
	}
	both := twoRuns(t, h)
	for range 2 {
		if r := <-both; r.Status != 0 || strings.TrimSpace(string(r.Stdout)) != "Linux" {
			t.Fatalf("status %d, %s%s", r.Status, r.Stdout, r.Stderr)
		}
	}
	for path, was := range before {
		if !os.SameFile(was, info(t, path)) {
			t.Errorf("%s was fetched again", filepath.Base(path))
		}
	}
	for kind, want := range map[string]int{"images/*.erofs": 1, "kernels/*/kernel.json": 1, "kernels/.pull-*": 0} {
		if made, _ := filepath.Glob(filepath.Join(dir, "data/banger", kind)); len(made) != want {
			t.Errorf("%s: %q, want %d", kind, made, want)
		}
	}
	if vms := h.List(t); len(vms) > 0 {
		t.Errorf("VMs are left: %+v", vms)
	}
	h.OK(t, "run", "--rm", "--", "true") // asks nothing any more
}

// twoRuns begins two first runs at once.
func twoRuns(t *testing.T, h *vmtest.Host) <-chan vmtest.Result {
	t.Helper()
	ended := make(chan vmtest.Result, 2)
	for range 2 {
		go func() {
			ended <- h.Within(vmtest.Patience(20*time.Minute), nil, "run", "-y", "--rm", "--", "uname", "-s")
		}()
	}
	return ended
}

func info(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
