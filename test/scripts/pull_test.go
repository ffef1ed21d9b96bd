package tests_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/test/treetest"
)

// A daemon that is killed at any step of a pull leaves no image and no half of one, and
// the next pull makes the image.
func TestPullKilled(t *testing.T) {
	large := treetest.Archive(t, treetest.File("large", strings.Repeat("large", 500000)))
	img, err := mutate.AppendLayers(empty.Image,
		static.NewLayer(treetest.Archive(t, treetest.File("small", "small")), types.OCIUncompressedLayer), static.NewLayer(large, types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	last, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	configured, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for step, part := range map[string]string{
		"before it asks": "/v2/", "at the manifest": "/manifests/latest", "at the config": configured.String(), "in a layer": last.String(),
	} {
		t.Run(step, func(t *testing.T) {
			b := newBangerd(t)
			if err := os.Link(filepath.Join(bin, "banger"), filepath.Join(b.bin, "banger")); err != nil {
				t.Fatal(err)
			}
			reached, once := make(chan struct{}), sync.OnceFunc(func() {})
			held := make(chan struct{})
			var mu sync.Mutex
			hold := false
			quiet := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				now := hold && strings.HasSuffix(r.URL.Path, part)
				mu.Unlock()
				if now {
					if strings.HasSuffix(r.URL.Path, last.String()) {
						_, _ = w.Write(large[:len(large)/2])
						_ = http.NewResponseController(w).Flush()
					}
					once()
					<-held
					return
				}
				if strings.HasSuffix(r.URL.Path, last.String()) && r.Method == http.MethodGet { // the registry behind has no ranges
					http.ServeContent(w, r, "", config.Created.Time, strings.NewReader(string(large)))
					return
				}
				quiet.ServeHTTP(w, r)
			}))
			defer server.Close()
			defer sync.OnceFunc(func() { close(held) })()
			once = sync.OnceFunc(func() { close(reached) })
			ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/image:latest")
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
			cli := func(args ...string) *exec.Cmd {
				cmd := b.command("run")
				cmd.Path, cmd.Args = filepath.Join(b.bin, "banger"), append([]string{"banger"}, args...)
				return cmd
			}
			if out, err := cli("image", "list").CombinedOutput(); err != nil { // starts the daemon
				t.Fatalf("%v: %s", err, out)
			}
			var status struct{ Results []struct{ PID int } }
			out, err := cli("daemon", "status", "--json").Output()
			if err != nil || json.Unmarshal(out, &status) != nil || len(status.Results) != 1 {
				t.Fatalf("%v: %s", err, out)
			}
			mu.Lock()
			hold = true
			mu.Unlock()
			pull := cli("image", "pull", "-q", ref.Name())
			var said strings.Builder
			pull.Stderr = &said
			if err := pull.Start(); err != nil {
				t.Fatal(err)
			}
			<-reached
			if err := syscall.Kill(status.Results[0].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := pull.Wait(); err == nil || !strings.Contains(said.String(), "what was fetched is kept") {
				t.Errorf("the pull ended with %v: %s", err, said.String())
			}
			mu.Lock()
			hold = false
			mu.Unlock()
			if out, err := cli("image", "list", "--json").CombinedOutput(); err != nil || !strings.Contains(string(out), `"results":[]`) {
				t.Errorf("%v: %s", err, out)
			}
			b.onlyImages(0)
			if out, err := cli("image", "pull", "-q", ref.Name()).CombinedOutput(); err != nil {
				t.Errorf("the next pull: %v: %s", err, out)
			}
			b.onlyImages(1)
			if out, err := cli("daemon", "stop").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// onlyImages checks that the directory of images has so many, and nothing that is half made.
func (b *bangerd) onlyImages(want int) {
	b.Helper()
	list, err := os.ReadDir(filepath.Join(b.dir, "data/banger/images"))
	if err != nil && !os.IsNotExist(err) {
		b.Fatal(err)
	}
	n := 0
	for _, e := range list {
		switch {
		case strings.HasSuffix(e.Name(), ".erofs"):
			n++
		case e.Name() != ".records":
			b.Errorf("left: %s", e.Name())
		}
	}
	if n != want {
		b.Errorf("%d images, want %d", n, want)
	}
}
