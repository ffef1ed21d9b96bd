package tests_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	root "banger"
	"banger/fetch"
	"banger/test/treetest"
)

// The real daemon is killed at many moments of a pull, an import and a push: what is here is
// whole, nothing else is, and the next try succeeds. The registry is Debian's, with TLS and
// a password; it has whole images, too.
func TestImagesKilled(t *testing.T) {
	treetest.Needs(t, false, "umoci", "fsck.erofs")
	registry, cert := treetest.Registry(t)
	b := newBangerd(t)
	if err := os.Link(filepath.Join(bin, "banger"), filepath.Join(b.bin, "banger")); err != nil {
		t.Fatal(err)
	}
	login := filepath.Join(b.dir, "login")
	if err := errors.Join(os.Mkdir(login, 0o700), os.WriteFile(filepath.Join(login, "config.json"),
		fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, base64.StdEncoding.EncodeToString([]byte("me:secret"))), 0o600)); err != nil {
		t.Fatal(err)
	}
	command := func(ctx context.Context, args ...string) *exec.Cmd {
		env := b.command("run").Env
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "banger"), args...)
		cmd.Env = append(env, "SSL_CERT_FILE="+cert, "DOCKER_CONFIG="+login)
		return cmd
	}
	must := func(args ...string) string {
		t.Helper()
		cmd := command(t.Context(), args...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("banger %q: %v: %s", args, err, err.(*exec.ExitError).Stderr)
		}
		return string(out)
	}
	t.Cleanup(func() { _ = command(context.Background(), "daemon", "stop").Run() })

	layout, archive := filepath.Join(b.dir, "layout"), filepath.Join(b.dir, "archive.tar")
	treetest.Run(t, "umoci", "init", "--layout", layout)
	treetest.Run(t, "umoci", "new", "--image", layout+":latest")
	noise := make([]byte, 8<<20) // it can't be compressed
	for n := range 4 {
		_, _ = rand.Read(noise)
		layer := filepath.Join(b.dir, "layer.tar")
		if err := os.WriteFile(layer, treetest.Archive(t, treetest.File(fmt.Sprint("noise", n), string(noise))), 0o600); err != nil {
			t.Fatal(err)
		}
		treetest.Run(t, "umoci", "raw", "add-layer", "--image", layout+":latest", layer)
	}
	treetest.Run(t, "skopeo", "copy", "-q", "--dest-cert-dir", filepath.Dir(cert), "--dest-creds", "me:secret", "oci:"+layout+":latest", "docker://"+registry+"/org/image:one")
	treetest.Run(t, "skopeo", "copy", "-q", "oci:"+layout+":latest", "oci-archive:"+archive)
	must("image", "pull", "-q", "--name", "kept", registry+"/org/image:one")
	layers := filepath.Join(b.dir, "cache/banger/layers")

	moments := 12
	if testing.Short() {
		moments = 3
	}
	for _, args := range [][]string{
		{"image", "import", "-q", "--name", "victim", archive},
		{"image", "pull", "-q", "--name", "victim", registry + "/org/image:one"},
		{"image", "push", "-q", "kept", registry + "/org/pushed"},
	} {
		verb := args[1]
		t.Run(verb, func(t *testing.T) {
			before := func(moment int) []string { // each push is to a repository of its own, without layers
				if verb != "push" {
					must("image", "delete", "kept") // else the same file is there already
					_ = os.RemoveAll(layers)
					return args
				}
				return append(slices.Clone(args[:4]), args[4]+fmt.Sprint(moment))
			}
			after := func() {
				if verb == "push" {
					return
				}
				if strings.Contains(must("image", "list", "--json"), `"victim"`) {
					must("image", "delete", "victim")
				}
				must("image", "pull", "-q", "--name", "kept", registry+"/org/image:one")
			}
			run := before(0)
			began := time.Now()
			must(run...)
			took := time.Since(began)
			after()
			killed := 0
			for moment := 1; moment <= moments; moment++ {
				run := before(moment)
				status, err := results[struct {
					PID int `json:"pid"`
				}](must("daemon", "status", "--json"))
				if err != nil || len(status) != 1 {
					t.Fatalf("%v, %v", status, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				cmd := command(ctx, run...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				over := make(chan error, 1)
				go func() { over <- cmd.Wait() }()
				select {
				case <-over:
				case <-time.After(took * time.Duration(moment) / time.Duration(moments+1)):
					_ = syscall.Kill(status[0].PID, syscall.SIGKILL)
					killed++
					<-over
				}
				if ctx.Err() != nil {
					t.Errorf("moment %d: the command hangs", moment)
				}
				cancel()
				list := must("image", "list", "--json") // by the next daemon
				wholeImages(t, list, filepath.Join(b.dir, "data/banger/images"), layers)
				if verb == "push" {
					wholeThere(t, "docker://"+run[4], filepath.Dir(cert))
				}
				after()
				if t.Failed() {
					t.Fatalf("killed at moment %d of %d", moment, moments)
				}
			}
			if killed == 0 {
				t.Errorf("none was killed in %v", took)
			}
			t.Logf("killed %d times within %v", killed, took)
			must(before(moments + 1)...)
			after()
		})
	}
}

// wholeImages checks what is here: each image has a whole file, each file an image, and each
// layer the content that its name says.
func wholeImages(t *testing.T, list, images, layers string) {
	t.Helper()
	known, err := results[root.Image](list)
	if err != nil {
		t.Fatal(err)
	}
	want, have := []string{}, []string{}
	for _, img := range known {
		want = append(want, img.ID+".erofs")
	}
	slices.Sort(want)
	files, _ := os.ReadDir(images)
	for _, f := range files {
		if f.Name() == ".records" { // says whose records these are of
			continue
		}
		have = append(have, f.Name())
		treetest.Run(t, "fsck.erofs", filepath.Join(images, f.Name()))
	}
	if !slices.Equal(have, slices.Compact(want)) {
		t.Errorf("there are the files %q of the images %q", have, want)
	}
	cached, _ := os.ReadDir(layers)
	for _, l := range cached {
		data, err := os.ReadFile(filepath.Join(layers, l.Name()))
		if sum := sha256.Sum256(data); err != nil || !fetch.IsDownload(l.Name()) || len(l.Name()) == 64 && hex.EncodeToString(sum[:]) != l.Name() {
			t.Errorf("among the layers is %s with %d bytes: %v", l.Name(), len(data), err)
		}
	}
}

// wholeThere checks that a registry has an image whole, or not at all.
func wholeThere(t *testing.T, image, certs string) {
	t.Helper()
	if exec.Command("skopeo", "inspect", "--raw", "--creds", "me:secret", "--cert-dir", certs, image).Run() == nil {
		treetest.Run(t, "skopeo", "copy", "-q", "--src-creds", "me:secret", "--src-cert-dir", certs, image, "dir:"+t.TempDir())
	}
}
