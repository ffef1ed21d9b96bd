package oci_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
	"banger/image/oci"
	"banger/test/treetest"
)

// asked counts the layers that are asked for.
type asked struct {
	http.RoundTripper
	layers *atomic.Int64
}

func (a asked) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, "/blobs/") {
		a.layers.Add(1)
	}
	return a.RoundTripper.RoundTrip(r)
}

func none(string) (banger.Image, bool) { return banger.Image{}, false }

// Images that skopeo pushed to Debian's registry, with TLS and a password, come back as
// they were; and what is here already isn't fetched again.
func TestDockerRegistry(t *testing.T) {
	host, cert := treetest.Registry(t)
	base := []entry{dir("./", 0o755), file("base", strings.Repeat("base", 100000)), symlink("link", "base")}
	first := umoci(t, base, []entry{file("one", "1"), file(".wh.link", "")})
	second := umoci(t, base, []entry{file("two", "2")})
	for tag, layout := range map[string]string{"one": first, "two": second} {
		treetest.Run(t, "skopeo", "copy", "-q", "--dest-cert-dir", filepath.Dir(cert), "--dest-creds", "me:secret", "oci:"+layout+":latest", "docker://"+host+"/org/image:"+tag)
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	must(t, err)
	pool.AppendCertsFromPEM(text)
	var layers atomic.Int64
	r := &oci.Registries{Store: newStore(t), Dir: filepath.Join(t.TempDir(), "layers"), Client: &http.Client{Transport: asked{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, &layers}}}
	ref := host + "/org/image:one"
	for _, who := range []banger.Credentials{{}, {User: "me", Password: "wrong"}} {
		_, err := r.Pull(t.Context(), banger.Pull{Ref: ref, Credentials: who}, none, nil)
		if banger.CodeOf(err) != banger.CodeForbidden || !strings.Contains(err.Error(), "needs a login") {
			t.Errorf("%+v: %v", who, err)
		}
	}
	me := banger.Credentials{User: "me", Password: "secret"}
	var stages []string
	img, err := r.Pull(t.Context(), banger.Pull{Ref: ref, Credentials: me}, none, func(e banger.Event) { stages = append(stages, e.Stage) })
	must(t, err)
	want, err := importFile(t, newStore(t), archives(t, first, "layout")["layout"])
	must(t, err)
	if img.ID != want.ID || img.Name != ref || img.Config.Digest == "" || len(stages) == 0 {
		t.Errorf("%+v after %q; want %s", img, stages, want.ID)
	}
	path, err := r.Store.Path(img.ID)
	must(t, err)
	if tree := treetest.Snapshot(t, treetest.Mount(t, path)); len(tree) != 3 {
		t.Errorf("%q", tree)
	}
	layers.Store(0)
	_, err = r.Pull(t.Context(), banger.Pull{Ref: host + "/org/image:two", Credentials: me}, none, nil)
	must(t, err)
	if n := layers.Load(); n != 2 { // its config and its own layer
		t.Errorf("an image on the same base asked for %d blobs", n)
	}
	layers.Store(0)
	again, err := r.Pull(t.Context(), banger.Pull{Ref: host + "/org/image@" + img.Config.Digest, Credentials: me}, func(id string) (banger.Image, bool) { return img, id == img.ID }, nil)
	if err != nil || layers.Load() != 1 || again.Name != host+"/org/image@"+img.Config.Digest {
		t.Errorf("an image that is here asked for %d blobs: %+v, %v", layers.Load(), again, err)
	}
	_, err = r.Pull(t.Context(), banger.Pull{Ref: host + "/org/no", Credentials: me}, none, nil)
	if banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("an image that isn't there: %v", err)
	}
}

// liar is a registry in this process that serves one image and lies as it is told.
type liar struct {
	*httptest.Server
	lie func(w http.ResponseWriter, r *http.Request) (done bool)
}

const fibs = "registry.example"

func newLiar(t *testing.T, img v1.Image) *liar {
	t.Helper()
	l := &liar{}
	quiet := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	l.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.lie == nil || !l.lie(w, r) {
			quiet.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(l.Close)
	ref, err := name.ParseReference(fibs + "/image:latest")
	must(t, err)
	must(t, remote.Write(ref, img, remote.WithTransport(l.client().Transport)))
	return l
}

// client asks the liar, whatever the host is called.
func (l *liar) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Listener.Addr().String())
		},
	}}
}

// remoteImage is an image of two layers.
func remoteImage(t *testing.T) (img v1.Image, layers []v1.Layer) {
	t.Helper()
	layers = []v1.Layer{
		static.NewLayer(treetest.Archive(t, file("large", strings.Repeat("large", 200000))), types.OCIUncompressedLayer),
		static.NewLayer(treetest.Archive(t, file("small", "small")), types.OCIUncompressedLayer),
	}
	return imageOf(t, layers...), layers
}

// imageOf is an image of these layers for the platform of VMs.
func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	file, err := img.ConfigFile()
	must(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, file)
	must(t, err)
	return img
}

// Whatever a registry does, no image comes of it that isn't what its manifest says, nothing
// is left of it, and the error says what happened.
func TestLyingRegistry(t *testing.T) {
	img, layers := remoteImage(t)
	digest, err := layers[0].Digest()
	must(t, err)
	content, err := layers[0].Compressed()
	must(t, err)
	whole, err := io.ReadAll(content)
	must(t, err)
	manifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
	blob := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, digest.String()) }
	for what, c := range map[string]struct {
		lie  func(http.ResponseWriter, *http.Request) bool
		code banger.Code
		says string
	}{
		"another layer": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				_, _ = w.Write(bytes.Repeat([]byte("x"), len(whole)))
			}
			return blob(r)
		}, banger.CodeUnavailable, "doesn't match its hash"},
		"no layer": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				http.NotFound(w, r)
			}
			return blob(r)
		}, banger.CodeUnavailable, "which the image's manifest names"},
		"half a layer, always": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				_, _ = w.Write(whole[:1000])
			}
			return blob(r)
		}, banger.CodeUnavailable, "ended after 1000 of"},
		"silence in a layer": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
				_, _ = w.Write(whole[:1000])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			return blob(r)
		}, banger.CodeTimeout, "no data arrived"},
		"too many requests": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your pull rate limit"}]}`)
			}
			return manifest(r)
		}, banger.CodeUnavailable, "limits how many images"},
		"an error": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				w.WriteHeader(http.StatusTeapot)
			}
			return manifest(r)
		}, banger.CodeUnavailable, "answered 418"},
		"a redirect into the host's network": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				http.Redirect(w, r, "https://169.254.169.254/latest", http.StatusFound)
			}
			return manifest(r)
		}, banger.CodeUnavailable, "private/link-local"},
		"a layer in the host's network": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				http.Redirect(w, r, "https://169.254.169.254/latest", http.StatusFound)
			}
			return blob(r)
		}, banger.CodeUnavailable, "own network"},
		"a redirect without TLS": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				http.Redirect(w, r, "http://mirror.example/", http.StatusFound)
			}
			return manifest(r)
		}, banger.CodeForbidden, "where anybody in between"},
		"an endless manifest": {func(w http.ResponseWriter, r *http.Request) bool {
			for manifest(r) {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return true
				}
			}
			return false
		}, banger.CodeInvalid, "can't be read"},
		"no manifest": {func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				_, _ = io.WriteString(w, `{"schemaVersion":1}`)
			}
			return manifest(r)
		}, banger.CodeInvalid, "names no config"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLiar(t, img)
			l.lie = c.lie
			s := newStore(t)
			r := &oci.Registries{Store: s, Dir: filepath.Join(t.TempDir(), "layers"), Client: l.client(), Stall: 300 * time.Millisecond}
			made, err := r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil)
			if banger.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%+v, code %s: %v", made, banger.CodeOf(err), err)
			}
			if left, err := os.ReadDir(s.Dir); err == nil && len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			l.lie = func(w http.ResponseWriter, r *http.Request) bool { // it mends its ways: what is kept of before does no harm
				if blob(r) {
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(whole)) // the registry behind can't serve ranges
				}
				return blob(r)
			}
			made, err = r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil)
			if err != nil || made.Entries != 2 || made.Name != fibs+"/image:latest" {
				t.Errorf("afterwards: %+v, %v", made, err)
			}
		})
	}
}

// A layer that breaks off goes on where it ended.
func TestResumed(t *testing.T) {
	img, layers := remoteImage(t)
	digest, err := layers[0].Digest()
	must(t, err)
	l := newLiar(t, img)
	content, err := layers[0].Compressed()
	must(t, err)
	whole, err := io.ReadAll(content)
	must(t, err)
	var ranges []string
	l.lie = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(whole))
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
		_, _ = w.Write(whole[:500000])
		panic(http.ErrAbortHandler)
	}
	l.Config.ErrorLog = log.New(io.Discard, "", 0)
	r := &oci.Registries{Store: newStore(t), Dir: filepath.Join(t.TempDir(), "layers"), Client: l.client(), Stall: 3 * time.Second}
	_, err = r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil)
	if err != nil || len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == "bytes=0-" {
		t.Errorf("asked for %q: %v", ranges, err)
	}
}

// A config that says another content than its layers have makes no image.
func TestWrongDiffID(t *testing.T) {
	img, _ := remoteImage(t)
	config, err := img.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.RootFS.DiffIDs[1] = config.RootFS.DiffIDs[0]
	forged, err := mutate.ConfigFile(img, config)
	must(t, err)
	l := newLiar(t, forged)
	r := &oci.Registries{Store: newStore(t), Dir: filepath.Join(t.TempDir(), "layers"), Client: l.client()}
	_, err = r.Pull(t.Context(), banger.Pull{Ref: fibs + "/image"}, none, nil)
	if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "isn't what the image's config says") {
		t.Error(err)
	}
}

// References and platforms that can't be meant are refused before anybody is asked.
func TestWhatIsAskedFor(t *testing.T) {
	r := &oci.Registries{Store: newStore(t), Dir: t.TempDir()}
	for says, what := range map[string]banger.Pull{
		"no reference":         {Ref: "Bad::ref"},
		"can't run images for": {Ref: "alpine", Platform: "linux/arm64"},
		"can't be asked":       {Ref: "127.0.0.1:1/x"},
	} {
		if _, err := r.Pull(t.Context(), what, none, nil); !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("%+v: %v", what, err)
		}
	}
	// Only this host's own registries may be asked without TLS.
	plain := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer plain.Close()
	_, err := r.Pull(t.Context(), banger.Pull{Ref: strings.TrimPrefix(plain.URL, "http://") + "/no"}, none, nil)
	if banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("a registry of this host: %v", err)
	}
	r.Client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", plain.Listener.Addr().String())
	}}}
	for _, insecure := range []bool{false, true} {
		_, err = r.Pull(t.Context(), banger.Pull{Ref: "10.0.0.1:5000/no", Insecure: insecure}, none, nil)
		if code := banger.CodeOf(err); insecure != (code == banger.CodeNotFound) || !insecure && code != banger.CodeForbidden {
			t.Errorf("insecure %v: %v", insecure, err)
		}
	}
}
