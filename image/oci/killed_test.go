package oci_test

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"banger"
	"banger/fetch"
	"banger/image/oci"
	"banger/image/rootfs"
	"banger/test/treetest"
)

// victim says what TestVictim does: "VERB STEP DIR ARG".
const victim = "BANGER_TEST_VICTIM"

// TestVictim is a process of its own that is killed at a step of its work.
func TestVictim(t *testing.T) {
	todo := strings.Fields(os.Getenv(victim))
	if len(todo) != 4 {
		t.Skip("not run: TestKilled runs it")
	}
	last, err := strconv.Atoi(todo[1])
	must(t, err)
	step := 0
	at := func(banger.Event) {
		if step++; step == last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	at(banger.Event{})
	_, err = doomed(t, todo[0], todo[2], todo[3], at)
	must(t, err)
}

// doomed does what a daemon does of a verb.
func doomed(t *testing.T, verb, dir, arg string, p banger.Progress) (banger.Image, error) {
	s := &oci.Store{Store: &rootfs.Store{Dir: filepath.Join(dir, "images")}}
	r := &oci.Registries{Store: s, Dir: filepath.Join(dir, "layers")}
	from, err := os.Open(filepath.Join(dir, "base.tar"))
	must(t, err)
	defer func() { _ = from.Close() }()
	if verb == "import" {
		return s.Import(t.Context(), from, p)
	}
	base, err := s.Import(t.Context(), from, nil)
	must(t, err)
	if verb == "push" {
		_, err := r.Push(t.Context(), base, banger.Push{Ref: arg}, func(e banger.Event) {
			p(e)
		})
		return base, err
	}
	disk, err := os.Open(filepath.Join(dir, "disk"))
	must(t, err)
	defer func() { _ = disk.Close() }()
	info, err := disk.Stat()
	must(t, err)
	return r.Save(t.Context(), base, disk, info.Size(), banger.Save{VM: "x"}, p)
}

// Whoever is killed while they import, save or push leaves nothing but whole images, and
// parts of layers that are swept as broken downloads are.
func TestKilled(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	dir := t.TempDir()
	layout := umoci(t, []entry{dir0("./"), file("a", strings.Repeat("a", 3<<20)), dir0("d")}, []entry{file("b", "b")})
	must(t, os.Rename(archives(t, layout, "layout")["layout"], filepath.Join(dir, "base.tar")))
	base, err := doomed(t, "import", dir, "", nil)
	must(t, err)
	s := &rootfs.Store{Dir: filepath.Join(dir, "images")}
	path, err := s.Path(base.ID)
	must(t, err)
	disk, _ := wrote(t, path, `cd "$1"; rm b; for i in $(seq 2500); do echo $i > d/$i; done`)
	must(t, os.Rename(disk, filepath.Join(dir, "disk")))
	kills := 0
	for _, verb := range []string{"import", "save", "push"} {
		arg := strings.TrimPrefix(server.URL, "http://") + "/" + verb
		whole := ""
		for step := 1; whole == ""; step++ {
			if verb == "import" {
				must(t, s.Remove(base.ID))
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s %s", victim, verb, step, dir, arg))
			out, err := cmd.CombinedOutput()
			if err == nil {
				whole = verb
			} else if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
				t.Fatalf("%s, step %d: %v: %s", verb, step, err, out)
			} else {
				kills++
			}
			must(t, s.Clean())
			images, err := os.ReadDir(s.Dir)
			must(t, err)
			for _, i := range images {
				id, ok := strings.CutSuffix(i.Name(), ".erofs")
				if !ok || !banger.IsImageID(id) {
					t.Errorf("%s, step %d: left %s", verb, step, i.Name())
				} else {
					treetest.Run(t, "fsck.erofs", filepath.Join(s.Dir, i.Name()))
				}
			}
			layers, _ := os.ReadDir(filepath.Join(dir, "layers"))
			for _, l := range layers {
				if !fetch.IsDownload(l.Name()) {
					t.Errorf("%s, step %d: left %s", verb, step, l.Name())
				}
			}
			if step > 60 {
				t.Fatalf("%s doesn't end", verb)
			}
		}
	}
	if kills < 6 {
		t.Errorf("only %d were killed", kills)
	}
	r := &oci.Registries{Store: newStore(t), Dir: t.TempDir()}
	img, err := r.Pull(t.Context(), banger.Pull{Ref: strings.TrimPrefix(server.URL, "http://") + "/push"}, none, nil)
	if err != nil || img.Entries != base.Entries {
		t.Errorf("what was pushed in the end: %+v, %v", img, err)
	}
}

func dir0(name string) entry { return dir(name, 0o755) }
