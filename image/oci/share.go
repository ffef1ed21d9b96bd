package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
	"banger/fetch"
	"banger/image/ext4"
	"banger/image/overlay"
)

// Export implements banger.ImageFormats.
func (r *Registries) Export(ctx context.Context, img banger.Image, what banger.Export, w io.Writer, p banger.Progress) error {
	defer fetch.Hold(ctx, r.Dir)()
	c, err := r.content(ctx, img, what.Squash, p)
	if err != nil {
		return err
	}
	w = &told{w: w, ctx: ctx, progress: p, stage: "write"}
	if what.Format != banger.FormatDocker {
		return c.layout(w, what.Image)
	}
	made, err := c.image()
	if err != nil {
		return err
	}
	tag, err := name.NewTag(what.Image)
	if err != nil { // a name that docker can't have
		tag, err = name.NewTag("image:" + banger.ShortID(img.ID))
	}
	if err != nil {
		return err
	}
	return tarball.Write(tag, made, w)
}

// told counts what is written, and ends when ctx does.
type told struct {
	w        io.Writer
	ctx      context.Context
	progress banger.Progress
	stage    string
	done     int64
}

func (t *told) Write(b []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, banger.Errorf(banger.CodeCanceled, "%s: %w", t.stage, err)
	}
	n, err := t.w.Write(b)
	before := t.done
	if t.done += int64(n); before>>20 != t.done>>20 {
		say(t.progress, banger.Event{Stage: t.stage, Done: t.done})
	}
	return n, err
}

// layout writes the image as a tar of an OCI layout.
func (c content) layout(w io.Writer, called string) error {
	digest, size, err := v1.SHA256(strings.NewReader(string(c.manifest)))
	if err != nil {
		return err
	}
	kind, err := c.MediaType()
	if err != nil {
		return err
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
		MediaType: kind, Digest: digest, Size: size, Platform: &native,
		Annotations: map[string]string{"org.opencontainers.image.ref.name": tagOf(called), "io.containerd.image.name": called},
	}}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	put := func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(t, r)
		return err
	}
	text := func(name, content string) error { return put(name, int64(len(content)), strings.NewReader(content)) }
	config, _, err := v1.SHA256(strings.NewReader(string(c.config)))
	if err != nil {
		return err
	}
	if err := errors.Join(text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), text("index.json", string(index)),
		text("blobs/sha256/"+digest.Hex, string(c.manifest)), text("blobs/sha256/"+config.Hex, string(c.config))); err != nil {
		return err
	}
	written := map[v1.Hash]bool{}
	for _, l := range c.layers {
		if written[l.Digest] {
			continue
		}
		written[l.Digest] = true
		f, err := file{l}.Compressed()
		if err != nil {
			return err
		}
		err = put("blobs/sha256/"+l.Digest.Hex, l.Size, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return t.Close()
}

// tagOf is what an image's name says after the colon.
func tagOf(called string) string {
	if _, tag, ok := strings.Cut(called[strings.LastIndex(called, "/")+1:], ":"); ok {
		return tag
	}
	return "latest"
}

// Push implements banger.ImageFormats.
func (r *Registries) Push(ctx context.Context, img banger.Image, what banger.Push, p banger.Progress) (banger.Pushed, error) {
	defer fetch.Hold(ctx, r.Dir)()
	tag, err := name.NewTag(what.Ref)
	if err != nil {
		return banger.Pushed{}, invalid("%q can't be pushed to: %w", what.Ref, err).WithHint("a name with a tag can: ghcr.io/org/image:tag, localhost:5000/image")
	}
	to := &remoteImage{ref: tag, insecure: what.Insecure}
	say(p, banger.Event{Stage: "registry", Message: to.host()})
	if err := to.open(ctx, r.client(), auth(what.Credentials), transport.PushScope); err != nil {
		return banger.Pushed{}, to.refusedPush(ctx, err)
	}
	c, ok := r.originals(img)
	if ok && !what.Squash { // the registry may have what isn't here
		if err = to.push(ctx, c, p); err == nil || !errors.Is(err, errAway) {
			return to.pushed(c), to.refusedPush(ctx, err)
		}
	}
	if c, err = r.flat(ctx, img, p); err != nil {
		return banger.Pushed{}, err
	}
	return to.pushed(c), to.refusedPush(ctx, to.push(ctx, c, p))
}

func (i *remoteImage) push(ctx context.Context, c content, p banger.Progress) error {
	made, err := c.image()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates, told := make(chan v1.Update, 16), make(chan struct{})
	go func() { // remote.Write closes updates
		defer close(told)
		for u := range updates {
			if u.Error == nil {
				say(p, banger.Event{Stage: "push", Done: u.Complete, Total: u.Total})
			}
		}
	}()
	err = remote.Write(i.ref, made, append(i.how, remote.WithContext(ctx), remote.WithProgress(updates), remote.WithJobs(sideBySide))...)
	<-told
	return err
}

func (i *remoteImage) pushed(c content) banger.Pushed {
	digest, _, err := v1.SHA256(strings.NewReader(string(c.manifest)))
	if err != nil {
		return banger.Pushed{}
	}
	return banger.Pushed{Ref: familiar(i.ref), Digest: digest.String(), Layers: len(c.layers), Remade: c.remade}
}

// refusedPush makes an error of a push for users.
func (i *remoteImage) refusedPush(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		switch e.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
			return banger.Errorf(banger.CodeForbidden, "%s doesn't take %q from whoever asks so (status %d: %.200q)", i.host(), familiar(i.ref), e.StatusCode, e.Error()).
				WithHint("check the name; `docker login %s` keeps a login that banger uses", i.host())
		}
	}
	return i.explain(ctx, err)
}

// Save implements banger.ImageFormats.
func (r *Registries) Save(ctx context.Context, base banger.Image, disk io.ReaderAt, size int64, what banger.Save, p banger.Progress) (banger.Image, error) {
	defer fetch.Hold(ctx, r.Dir)()
	say(p, banger.Event{Stage: "change"})
	fs, err := ext4.Open(disk, size)
	if err != nil {
		return banger.Image{}, unreadable(err)
	}
	tree, done, err := r.tree(base)
	if err != nil {
		return banger.Image{}, err
	}
	defer done()
	change := overlay.Change{Image: tree, Disk: fs, Upper: "upper", Plain: plainDirs, Skip: ofOneVM, Progress: func(n int) {
		say(p, banger.Event{Stage: "layer", Message: fmt.Sprint(n, " entries")})
	}}
	top, err := r.keep(ctx, func(w io.Writer) error { return change.Write(ctx, w) })
	if err != nil {
		return banger.Image{}, unreadable(err)
	}
	c, err := r.content(ctx, base, false, p)
	if err != nil {
		return banger.Image{}, err
	}
	file, err := v1.ParseConfigFile(strings.NewReader(string(c.config)))
	if err != nil {
		return banger.Image{}, err
	}
	file.Created = now()
	if c, err = c.with(file, top, v1.History{Created: file.Created, CreatedBy: "banger image save " + what.VM, Comment: what.Comment}); err != nil {
		return banger.Image{}, err
	}
	return r.made(ctx, c, p)
}

// made makes a file system of what was saved.
func (r *Registries) made(ctx context.Context, c content, p banger.Progress) (banger.Image, error) {
	digest, _, err := v1.SHA256(strings.NewReader(string(c.manifest)))
	if err != nil {
		return banger.Image{}, err
	}
	var layers []v1.Descriptor
	for _, l := range c.layers {
		layers = append(layers, l.Descriptor)
	}
	m, err := newImage(digest.String(), c.manifest, layers, c.config)
	if err != nil {
		return banger.Image{}, err
	}
	made, err := r.Store.ImportLayers(ctx, m.id(), m.flat(func(_ context.Context, n int, _ v1.Descriptor) (io.ReadCloser, error) {
		return os.Open(c.layers[n].path)
	}), p)
	made.Config = m.config
	return made, err
}

// unreadable makes an error for users of one about a VM's disk.
func unreadable(err error) error {
	if errors.Is(err, ext4.ErrFormat) {
		return invalid("the VM's disk can't be read: %w", err).WithHint("start the VM and stop it again: its kernel then mends what it can")
	}
	return err
}

// plainDirs are the directories of a VM's disk that lie beside its root: what guest/agent/boot
// mounts there, as programs make overlays in them.
var plainDirs = map[string]string{
	"var/lib/docker": "data/docker", "var/lib/containerd": "data/containerd", "var/lib/containers": "data/containers",
	"var/lib/buildkit": "data/buildkit", "var/lib/rancher/k3s": "data/k3s",
}

// ofOneVM reports whether a path is what a VM has for itself: the agent writes it at each
// start, of the VM's name and its user's settings.
func ofOneVM(path string) bool {
	switch path {
	case "etc/hostname", "etc/machine-id", "etc/hosts", "etc/resolv.conf", "etc/gitconfig", "etc/localtime", "etc/timezone",
		"run", "proc", "sys", "dev":
		return true
	}
	return false
}
