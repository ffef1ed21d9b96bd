package oci_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
	"banger/image/oci"
	"banger/image/rootfs"
	"banger/test/treetest"
)

// A pull beside a push takes none of the layers that are pushed, however long nobody has
// used them: what arrives has the original ones.
func TestPullBesidePush(t *testing.T) {
	img, layers := remoteImage(t)
	l := newLiar(t, img)
	dir := filepath.Join(t.TempDir(), "layers")
	r := &oci.Registries{Store: newStore(t), Dir: dir, Client: l.client()}
	pulled, err := r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil)
	must(t, err)
	age := time.Now().AddDate(0, 0, -8)
	files, err := filepath.Glob(dir + "/*")
	must(t, err)
	for _, f := range files {
		must(t, os.Chtimes(f, age, age))
	}
	if len(files) != len(layers) {
		t.Fatalf("the cache has %q", files)
	}
	begun, goOn := make(chan struct{}, 100), make(chan struct{})
	l.lie = func(w http.ResponseWriter, r *http.Request) bool {
		asks := r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/pushed/blobs/")
		if asks {
			begun <- struct{}{}
			<-goOn
			w.WriteHeader(http.StatusNotFound)
		}
		return asks
	}
	type pushed struct {
		banger.Pushed
		err error
	}
	done := make(chan pushed, 1)
	go func() {
		p, err := r.Push(t.Context(), pulled, banger.Push{Ref: fibs + "/pushed:latest"}, nil)
		done <- pushed{p, err}
	}()
	<-begun // it has looked which layers are here, and opened none
	other := &oci.Registries{Store: newStore(t), Dir: dir, Client: l.client()}
	another, err := name.ParseReference(fibs + "/another:latest")
	must(t, err, remote.Write(another, imageOf(t, static.NewLayer(treetest.Archive(t, file("another", "another")), types.OCIUncompressedLayer)), remote.WithTransport(l.client().Transport)))
	_, err = other.Pull(t.Context(), banger.Pull{Ref: fibs + "/another"}, none, nil)
	must(t, err)
	close(goOn)
	if p := <-done; p.err != nil || p.Remade || p.Layers != len(layers) || p.Digest != pulled.Config.Digest {
		t.Errorf("pushed %+v, %v", p.Pushed, p.err)
	}
}

// Mirrors are asked before the registry that they are for. One that has no answer is passed
// over, and none is told a password.
func TestMirrors(t *testing.T) {
	img, _ := remoteImage(t)
	l := newLiar(t, img)
	for _, down := range []string{"", "mirror.example"} {
		var asked, notes []string
		var mu sync.Mutex
		l.lie = func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			_, password, _ := r.BasicAuth()
			asked = append(asked, r.Host+" "+password)
			r.URL.Path = strings.NewReplacer("/hub/library/image", "/image", "/library/image", "/image").Replace(r.URL.Path)
			if r.Host == down {
				http.Error(w, "", http.StatusInternalServerError)
			}
			return r.Host == down
		}
		r := &oci.Registries{
			Store: newStore(t), Dir: filepath.Join(t.TempDir(), "layers"), Client: l.client(),
			Mirrors: []string{"other.example=nowhere.example", "docker.io=mirror.example/hub"},
		}
		got, err := r.Pull(t.Context(), banger.Pull{Ref: "image", Credentials: banger.Credentials{User: "me", Password: "secret"}}, none, func(e banger.Event) {
			if e.Stage == banger.StageNote {
				notes = append(notes, e.Message)
			}
		})
		of := func(host string) bool {
			return slices.ContainsFunc(asked, func(a string) bool { return strings.HasPrefix(a, host) })
		}
		if err != nil || got.Name != "image:latest" || !of("mirror.example") || of("index.docker.io") != (down != "") || of("mirror.example secret") || of("nowhere") {
			t.Errorf("%q is down: %q, asked %q: %v", down, got.Name, asked, err)
		}
		if (len(notes) > 0) != (down != "") {
			t.Errorf("%q is down: said %q", down, notes)
		}
	}
}

// Each limit is in the error, with the setting that changes it.
func TestLimits(t *testing.T) {
	img, _ := remoteImage(t)
	l := newLiar(t, img)
	layout := archives(t, umoci(t, []entry{dir0("./"), file("a", strings.Repeat("a", 5000)), file("b", "b"), file("c", "c")}), "layout")["layout"]
	for _, c := range []struct {
		limits rootfs.Limits
		want   string
	}{
		{rootfs.Limits{Bytes: 4000}, "image_max_gib"},
		{rootfs.Limits{Entries: 2}, "image_max_entries"},
		{rootfs.Limits{FreeMiB: 1 << 40}, "image_leave_free_mib"},
	} {
		store := &oci.Store{Store: &rootfs.Store{Dir: t.TempDir(), Limits: c.limits}}
		_, err := importFile(t, store, layout)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("an archive within %+v: %v", c.limits, err)
		}
		_, err = store.Import(t.Context(), bytes.NewReader(treetest.Archive(t, file("a", strings.Repeat("a", 5000)), file("b", "b"), file("c", "c"))), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a root within %+v: %v", c.limits, err)
		}
		if c.limits.Entries > 0 {
			continue // the registry's image has fewer
		}
		r := &oci.Registries{Store: store, Dir: filepath.Join(t.TempDir(), "layers"), Client: l.client()}
		if _, err := r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a pull within %+v: %v", c.limits, err)
		}
		if left, err := os.ReadDir(store.Dir); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
