package oci_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/image/oci"
	"banger/test/treetest"
)

// wrote makes the disk of a VM that has an image below it and in which a script ran, and
// says what it has then.
func wrote(t *testing.T, image, script string) (disk string, merged map[string]string) {
	t.Helper()
	treetest.Needs(t, true, "mount", "mke2fs")
	low := treetest.Mount(t, image)
	disk = filepath.Join(t.TempDir(), "disk")
	at, root := t.TempDir(), t.TempDir()
	treetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "64bit,metadata_csum,^resize_inode,meta_bg", disk, "1G")
	treetest.Run(t, "mount", "-o", "loop", disk, at)
	must(t, os.Mkdir(at+"/upper", 0o755), os.Mkdir(at+"/work", 0o700), os.MkdirAll(at+"/data/docker/overlay2", 0o710), os.WriteFile(at+"/data/docker/overlay2/x", []byte("data"), 0o600))
	treetest.Run(t, "mount", "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=on,index=on,xino=on", low, at, at), "overlay", root)
	treetest.Run(t, "sh", "-ec", script, "sh", root)
	treetest.Run(t, "mkdir", "-p", root+"/var/lib/docker")
	treetest.Run(t, "mount", "--bind", at+"/data/docker", root+"/var/lib/docker")
	merged = likeOverlay(treetest.Snapshot(t, root))
	treetest.Run(t, "umount", root+"/var/lib/docker")
	treetest.Run(t, "umount", root)
	treetest.Run(t, "umount", at)
	for name, description := range merged { // what is one VM's own stays out
		if name == "/etc/hostname" {
			delete(merged, name)
			_ = description
		}
	}
	return disk, merged
}

// likeOverlay leaves out how many links directories have, which an overlay doesn't know,
// and when directories were changed, which tools that unpack change.
func likeOverlay(tree map[string]string) map[string]string {
	for name, d := range tree {
		if strings.HasPrefix(d, "4") {
			before, after, _ := strings.Cut(d, " links ")
			_, attrs, _ := strings.Cut(after, "\"")
			_, attrs, _ = strings.Cut(attrs, "\"")
			tree[name] = before + attrs
		}
	}
	delete(tree, "")
	return tree
}

// unpacked is what skopeo and umoci make of an image.
func unpacked(t *testing.T, from string, how ...string) map[string]string {
	t.Helper()
	treetest.Needs(t, true, "skopeo", "umoci")
	dir := t.TempDir()
	treetest.Run(t, "skopeo", append(append([]string{"copy", "-q"}, how...), from, "oci:"+dir+"/oci:x")...)
	treetest.Run(t, "umoci", "unpack", "--image", dir+"/oci:x", dir+"/bundle")
	return likeOverlay(treetest.Snapshot(t, dir+"/bundle/rootfs"))
}

// An image is pulled, a VM of it writes, it is saved, pushed and exported; and what real
// tools get is what the VM had. Layers that came from the registry are the same ones.
func TestRoundTrip(t *testing.T) {
	host, cert := treetest.Registry(t)
	base := []entry{dir("./", 0o755), file("base", strings.Repeat("base", 100000)), dir("etc", 0o755), file("etc/conf", "old"), dir("lib", 0o755), file("lib/a", "a"), hardlink("lib/b", "lib/a"), symlink("bin", "lib")}
	layout := umoci(t, base, []entry{dir("top", 0o700), file("top/x", "x"), file(".wh.base", "")})
	treetest.Run(t, "umoci", "config", "--image", layout+":latest", "--config.cmd", "/bin/run", "--config.env", "A=b")
	creds := []string{"--src-cert-dir", filepath.Dir(cert), "--src-creds", "me:secret"}
	treetest.Run(t, "skopeo", "copy", "-q", "--dest-cert-dir", filepath.Dir(cert), "--dest-creds", "me:secret", "oci:"+layout+":latest", "docker://"+host+"/org/image:one")
	pool := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	must(t, err)
	pool.AppendCertsFromPEM(text)
	r := &oci.Registries{Store: newStore(t), Dir: filepath.Join(t.TempDir(), "layers"), Client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}}
	me := banger.Credentials{User: "me", Password: "secret"}
	pulled, err := r.Pull(t.Context(), banger.Pull{Ref: host + "/org/image:one", Credentials: me}, none, nil)
	must(t, err)
	path, err := r.Store.Path(pulled.ID)
	must(t, err)

	disk, want := wrote(t, path, `cd "$1"; echo new > etc/conf; echo web > etc/hostname; rm -r top; mv lib moved; echo more >> moved/b; mkdir -p home/me; touch home/me/x; chown -R 1000:1000 home/me; mkfifo pipe; ln -s /etc/conf link`)
	f, err := os.Open(disk)
	must(t, err)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	must(t, err)
	var stages []string
	saved, err := r.Save(t.Context(), pulled, f, info.Size(), banger.Save{VM: "web", Comment: "a note"}, func(e banger.Event) { stages = append(stages, e.Stage) })
	must(t, err)
	if path, err = r.Store.Path(saved.ID); err != nil || !slices.Contains(stages, "change") {
		t.Fatal(err, stages)
	}
	if diff := cmp.Diff(want, likeOverlay(treetest.Snapshot(t, treetest.Mount(t, path)))); diff != "" {
		t.Errorf("the VM (-) and the image (+) differ:\n%s", diff)
	}
	again, err := r.Save(t.Context(), pulled, f, info.Size(), banger.Save{VM: "web"}, nil)
	if err != nil || again.ID != saved.ID || !slices.Equal(saved.Config.Cmd, []string{"/bin/run"}) || len(saved.Config.DiffIDs) != len(pulled.Config.DiffIDs)+1 {
		t.Errorf("saved again: %+v, %v", again, err)
	}
	steps := r.History(saved)
	if last := steps[len(steps)-1]; last.By != "banger image save web" || last.Comment != "a note" || !last.Here || last.Size == 0 {
		t.Errorf("%+v", last)
	}

	pushed, err := r.Push(t.Context(), saved, banger.Push{Ref: host + "/org/image:two", Credentials: me}, nil)
	if err != nil || pushed.Remade || pushed.Digest != saved.Config.Digest {
		t.Fatalf("%+v, %v", pushed, err)
	}
	if diff := cmp.Diff(want, unpacked(t, "docker://"+host+"/org/image:two", creds...)); diff != "" {
		t.Errorf("the VM (-) and what skopeo pulled (+) differ:\n%s", diff)
	}
	if diff := cmp.Diff(want, podman(t, "pull", "-q", "--cert-dir", filepath.Dir(cert), "--creds", "me:secret", host+"/org/image:two")); diff != "" {
		t.Errorf("the VM (-) and what podman pulled (+) differ:\n%s", diff)
	}
	back, err := r.Pull(t.Context(), banger.Pull{Ref: host + "/org/image:two", Credentials: me}, none, nil)
	if err != nil || back.ID != saved.ID {
		t.Errorf("pulled back: %+v, %v", back, err)
	}
	if _, err := r.Push(t.Context(), saved, banger.Push{Ref: host + "/org/image:two"}, nil); banger.CodeOf(err) != banger.CodeForbidden || !strings.Contains(err.Error(), "doesn't take") {
		t.Errorf("a push without a login: %v", err)
	}

	for _, format := range []string{banger.FormatOCI, banger.FormatDocker} {
		for _, squash := range []bool{false, true} {
			tar := filepath.Join(t.TempDir(), "image.tar")
			out, err := os.Create(tar)
			must(t, err)
			must(t, r.Export(t.Context(), saved, banger.Export{Image: "org/image:two", Format: format, Squash: squash}, out, nil), out.Close())
			from := map[string]string{banger.FormatOCI: "oci-archive:", banger.FormatDocker: "docker-archive:"}[format]
			if diff := cmp.Diff(want, unpacked(t, from+tar)); diff != "" {
				t.Errorf("%s, squash %v: the VM (-) and the archive (+) differ:\n%s", format, squash, diff)
			}
			if diff := cmp.Diff(want, podman(t, "load", "-q", "-i", tar)); diff != "" {
				t.Errorf("%s, squash %v: the VM (-) and what podman loaded (+) differ:\n%s", format, squash, diff)
			}
			img, err := importFile(t, newStore(t), tar)
			if err != nil || squash == (img.ID == saved.ID) {
				t.Errorf("%s, squash %v: imported as %s: %v", format, squash, img.ID, err)
			}
		}
	}

	// Layers that are gone from the cache are asked for where they went; elsewhere one is made.
	must(t, os.RemoveAll(r.Dir))
	if pushed, err = r.Push(t.Context(), saved, banger.Push{Ref: host + "/org/image:three", Credentials: me}, nil); err != nil || pushed.Remade || pushed.Digest != saved.Config.Digest {
		t.Errorf("layers that the registry has: %+v, %v", pushed, err)
	}
	if pushed, err = r.Push(t.Context(), saved, banger.Push{Ref: host + "/other/image", Credentials: me}, nil); err != nil || !pushed.Remade || pushed.Layers != 1 {
		t.Errorf("layers that nobody has: %+v, %v", pushed, err)
	}
	if diff := cmp.Diff(want, unpacked(t, "docker://"+host+"/other/image:latest", creds...)); diff != "" {
		t.Errorf("the VM (-) and one layer (+) differ:\n%s", diff)
	}
	if left, err := filepath.Glob(r.Dir + "/*.part"); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// podman runs a command of the real podman, in a place of its own, that leaves one image
// there, and says what is in that.
func podman(t *testing.T, args ...string) map[string]string {
	t.Helper()
	treetest.Needs(t, true, "podman")
	base := t.TempDir()
	with := []string{"--root", base + "/root", "--runroot", base + "/run", "--storage-driver", "vfs"}
	run := func(args ...string) string {
		return strings.TrimSpace(treetest.Run(t, "podman", slices.Concat(with, args)...))
	}
	run(args...)
	id := run("images", "-q", "--no-trunc")
	id = strings.TrimPrefix(id, "sha256:")
	at := run("image", "mount", id)
	tree := likeOverlay(treetest.Snapshot(t, at[strings.LastIndex(at, "\n")+1:]))
	run("image", "unmount", id)
	return tree
}

// An image that isn't one of layers is given away as one layer.
func TestRootTarIsExported(t *testing.T) {
	treetest.Needs(t, true, "skopeo", "umoci")
	s := newStore(t)
	r := &oci.Registries{Store: s, Dir: filepath.Join(t.TempDir(), "layers")}
	img, err := s.Import(t.Context(), bytes.NewReader(treetest.Archive(t, dir("./", 0o755), file("a", "a"), dir("d", 0o700), hardlink("d/a", "a"))), nil)
	must(t, err)
	img.Source = "a tar"
	if steps := r.History(img); len(steps) != 1 || steps[0].By != "a tar" {
		t.Errorf("%+v", steps)
	}
	var archive bytes.Buffer
	must(t, r.Export(t.Context(), img, banger.Export{Image: "odd//name"}, &archive, nil))
	path := filepath.Join(t.TempDir(), "x.tar")
	must(t, os.WriteFile(path, archive.Bytes(), 0o600))
	got := unpacked(t, "oci-archive:"+path)
	erofs, err := s.Path(img.ID)
	must(t, err)
	if diff := cmp.Diff(likeOverlay(treetest.Snapshot(t, treetest.Mount(t, erofs))), got); diff != "" || len(got) != 3 {
		t.Errorf("image (-) and archive (+) differ:\n%s", diff)
	}
	var again bytes.Buffer
	must(t, r.Export(t.Context(), img, banger.Export{Image: "odd//name"}, &again, nil))
	if !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Error("the same image gave two archives")
	}
	must(t, r.Export(t.Context(), img, banger.Export{Image: "Odd//name", Format: banger.FormatDocker}, io.Discard, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Export(ctx, img, banger.Export{Image: "x"}, io.Discard, nil); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
	if _, err := r.Push(t.Context(), img, banger.Push{Ref: "a@sha256:1"}, nil); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("a push by digest: %v", err)
	}
	if _, err := r.Save(t.Context(), img, bytes.NewReader(make([]byte, 1<<20)), 1<<20, banger.Save{}, nil); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("zeros as a disk: %v", err)
	}
	if left, err := filepath.Glob(r.Dir + "/*.part"); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	var shown banger.ImageConfig
	text, err := json.Marshal((&banger.ImageConfig{Raw: []byte("x"), Manifest: []byte("y"), User: "u"}).Shown())
	if err := errors.Join(err, json.Unmarshal(text, &shown)); err != nil || shown.Raw != nil || shown.Manifest != nil || shown.User != "u" {
		t.Errorf("shown: %s, %v", text, err)
	}
}

// Archives that buildah and podman write of an image make what they have themselves.
func TestBuildahAndPodman(t *testing.T) {
	treetest.Needs(t, true, "buildah", "podman", "mount", "fsck.erofs", "setfattr")
	base := t.TempDir()
	with := []string{"--root", base + "/root", "--runroot", base + "/run", "--storage-driver", "vfs"}
	run := func(tool string, args ...string) string {
		out := strings.TrimSpace(treetest.Run(t, tool, slices.Concat(with, args)...))
		return out[strings.LastIndex(out, "\n")+1:]
	}
	c := run("buildah", "from", "scratch")
	at := run("buildah", "mount", c)
	treetest.Run(t, "sh", "-ec", `cd "$1"; mkdir -p bin usr/lib d/e; echo a > bin/a; ln bin/a bin/b; ln -s usr/lib lib; echo x > usr/lib/x; chmod 4755 bin/a; chown 70000:5 d; mknod n c 1 3; mkfifo p
		setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/lib/x; printf y > "$(printf 'n\n\303\251')"; truncate -s 3M sparse; echo old > d/e/old
		find . -exec touch -h -d @1700000000 {} +`, "sh", at) // their layers have whole seconds
	run("buildah", "commit", "-q", c, "one")
	treetest.Run(t, "sh", "-ec", `cd "$1"; rm d/e/old; rmdir d/e; echo file > d/e; rm bin/b; mkdir bin/b; echo z > bin/b/z; find . -exec touch -h -d @1700000001 {} +`, "sh", at)
	run("buildah", "config", "--entrypoint", `["/bin/a","-x"]`, "--env", "A=b", c)
	run("buildah", "commit", "-q", c, "two")
	want := likeOverlay(treetest.Snapshot(t, at))
	ids := map[string]bool{}
	for form, write := range map[string][]string{
		"buildah oci": {"buildah", "push", "-q", "two", "oci-archive:"}, "buildah docker": {"buildah", "push", "-q", "two", "docker-archive:"},
		"podman oci": {"podman", "save", "-q", "--format", "oci-archive", "two", "-o"}, "podman docker": {"podman", "save", "-q", "--format", "docker-archive", "two", "-o"},
	} {
		path := filepath.Join(t.TempDir(), "image.tar")
		args := slices.Clone(write[1:])
		if last := len(args) - 1; strings.HasSuffix(args[last], ":") {
			args[last] += path
		} else {
			args = append(args, path)
		}
		run(write[0], args...)
		s := newStore(t)
		img, err := importFile(t, s, path)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		ids[img.ID] = true
		erofs, err := s.Path(img.ID)
		must(t, err)
		if diff := cmp.Diff(want, likeOverlay(treetest.Snapshot(t, treetest.Mount(t, erofs)))); diff != "" {
			t.Errorf("%s: buildah (-) and the image (+) differ:\n%s", form, diff)
		}
		if !slices.Equal(img.Config.Entrypoint, []string{"/bin/a", "-x"}) {
			t.Errorf("%s: entrypoint %q", form, img.Config.Entrypoint)
		}
	}
	if len(ids) != 1 {
		t.Errorf("one image has %d ids", len(ids))
	}
}
