package oci

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	fastgzip "github.com/klauspost/compress/gzip"

	"banger"
	"banger/fetch"
	"banger/host/hostfs"
	"banger/image/erofs"
	"banger/image/overlay"
)

// content is an image as it is given away.
type content struct {
	manifest, config []byte
	layers           []cached
	remade           bool // its layers aren't the original ones
}

// cached is a layer in the cache of layers.
type cached struct {
	v1.Descriptor
	diffID v1.Hash
	path   string // empty: it isn't there
}

// errAway says that a layer is wanted which isn't in the cache.
var errAway = errors.New("the layer isn't in this host's cache any more")

// originals returns an image with the layers that it came with; ok is false when they
// aren't known.
func (r *Registries) originals(img banger.Image) (c content, ok bool) {
	if img.Config == nil || img.Config.Manifest == nil {
		return c, false
	}
	m, err := v1.ParseManifest(bytes.NewReader(img.Config.Manifest))
	if err != nil || len(m.Layers) != len(img.Config.DiffIDs) {
		return c, false
	}
	c.manifest, c.config = img.Config.Manifest, img.Config.Raw
	for n, l := range m.Layers {
		id, err := v1.NewHash(img.Config.DiffIDs[n])
		if err != nil || checkHash(l.Digest) != nil {
			return c, false
		}
		layer := cached{Descriptor: l, diffID: id, path: filepath.Join(r.Dir, l.Digest.Hex)}
		if info, err := os.Stat(layer.path); err != nil || info.Size() != l.Size {
			layer.path = ""
		}
		c.layers = append(c.layers, layer)
	}
	return c, true
}

// whole reports whether all layers are here.
func (c content) whole() bool {
	return !slices.ContainsFunc(c.layers, func(l cached) bool { return l.path == "" })
}

// content returns an image to be given away, with its original layers if all are here and
// one isn't asked for.
func (r *Registries) content(ctx context.Context, img banger.Image, squash bool, p banger.Progress) (content, error) {
	if c, ok := r.originals(img); ok && c.whole() && !squash {
		return c, nil
	}
	return r.flat(ctx, img, p)
}

// flat makes one layer of an image's file system.
func (r *Registries) flat(ctx context.Context, img banger.Image, p banger.Progress) (content, error) {
	say(p, banger.Event{Stage: "layer", Message: "the image's own layers aren't used: one is made of its file system"})
	tree, done, err := r.tree(img)
	if err != nil {
		return content{}, err
	}
	defer done()
	l, err := r.keep(ctx, func(w io.Writer) error { return overlay.Flat(ctx, tree, w) })
	if err != nil {
		return content{}, err
	}
	file := configFile(img)
	file.RootFS.DiffIDs, file.History = nil, nil
	c, err := content{remade: true}.with(file, l, v1.History{CreatedBy: "banger: all layers as one"})
	return c, err
}

// tree reads an image's file system.
func (r *Registries) tree(img banger.Image) (*erofs.Reader, func(), error) {
	path, err := r.Store.Path(img.ID)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	done := func() { _ = f.Close() }
	info, err := f.Stat()
	var t *erofs.Reader
	if err == nil {
		t, err = erofs.NewReader(f, info.Size())
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return t, done, nil
}

// configFile is the config of an image, or of one that never had any.
func configFile(img banger.Image) *v1.ConfigFile {
	if img.Config != nil && img.Config.Raw != nil {
		if f, err := v1.ParseConfigFile(bytes.NewReader(img.Config.Raw)); err == nil {
			return f
		}
	}
	f := &v1.ConfigFile{OS: native.OS, Architecture: native.Architecture, RootFS: v1.RootFS{Type: "layers"}}
	if c := img.Config; c != nil {
		f.Config = v1.Config{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkDir, User: c.User, StopSignal: c.StopSignal, Labels: c.Labels}
	}
	return f
}

// with adds a layer to an image. file is its config so far.
func (c content) with(file *v1.ConfigFile, l cached, step v1.History) (content, error) {
	file.RootFS.Type = "layers"
	file.RootFS.DiffIDs = append(slices.Clone(file.RootFS.DiffIDs), l.diffID)
	file.History = append(slices.Clone(file.History), step)
	c.layers = append(slices.Clone(c.layers), l)
	var err error
	if c.config, err = json.Marshal(file); err != nil {
		return c, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(c.config))
	if err != nil {
		return c, err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: digest, Size: size}}
	for _, l := range c.layers {
		l.MediaType = ociType(l.MediaType)
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	c.manifest, err = json.Marshal(m)
	return c, err
}

// ociType is a layer's media type in the OCI's words.
func ociType(t types.MediaType) types.MediaType {
	switch t {
	case types.DockerLayer:
		return types.OCILayer
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer
	}
	return t
}

// keep compresses the layer that make writes, and puts it into the cache of layers. If the
// daemon dies meanwhile, the file goes as broken downloads do.
func (r *Registries) keep(ctx context.Context, make func(io.Writer) error) (l cached, err error) {
	defer fetch.Hold(ctx, r.Dir)()
	var name [32]byte
	_, _ = rand.Read(name[:]) // it doesn't fail
	part := filepath.Join(r.Dir, hex.EncodeToString(name[:])+".part")
	f, err := hostfs.OpenLocked(ctx, part)
	if err != nil {
		return l, err
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	plain, packed := sha256.New(), sha256.New()
	room := &roomy{f: f, room: r.Store.Limits.Room}
	z, err := fastgzip.NewWriterLevel(io.MultiWriter(room, packed), gzip.BestSpeed)
	if err != nil {
		return l, err
	}
	if err := errors.Join(make(io.MultiWriter(z, plain)), z.Close()); err != nil {
		return l, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }
	l.diffID = hash(plain.Sum(nil))
	l.Descriptor = v1.Descriptor{MediaType: types.OCILayer, Digest: hash(packed.Sum(nil)), Size: room.wrote}
	l.path = filepath.Join(r.Dir, l.Digest.Hex)
	if err := f.Sync(); err != nil {
		return l, err
	}
	return l, os.Rename(part, l.path)
}

// roomy writes to a file as long as its disk has room.
type roomy struct {
	f     *os.File
	room  func(*os.File) error
	wrote int64
}

func (r *roomy) Write(b []byte) (int, error) {
	if r.wrote/(16<<20) != (r.wrote+int64(len(b)))/(16<<20) || r.wrote == 0 {
		if err := r.room(r.f); err != nil {
			return 0, err
		}
	}
	n, err := r.f.Write(b)
	r.wrote += int64(n)
	return n, err
}

// image is the content for go-containerregistry.
func (c content) image() (v1.Image, error) { return partial.CompressedToImage(c) }

// RawConfigFile implements partial.CompressedImageCore, as the methods below.
func (c content) RawConfigFile() ([]byte, error) { return c.config, nil }

// RawManifest is the manifest's bytes.
func (c content) RawManifest() ([]byte, error) { return c.manifest, nil }

// MediaType is the manifest's.
func (c content) MediaType() (types.MediaType, error) {
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	err := json.Unmarshal(c.manifest, &m)
	if m.MediaType == "" {
		m.MediaType = types.OCIManifestSchema1
	}
	return m.MediaType, err
}

// LayerByDigest finds a layer, or the config, which is one to registries.
func (c content) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range c.layers {
		if l.Digest == h {
			return file{l}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}

// file is a layer for go-containerregistry.
type file struct{ cached }

// Digest implements partial.CompressedLayer, as the methods below.
func (f file) Digest() (v1.Hash, error) { return f.cached.Digest, nil }

// DiffID is the digest of what is compressed.
func (f file) DiffID() (v1.Hash, error) { return f.diffID, nil }

// Size is in bytes.
func (f file) Size() (int64, error) { return f.cached.Size, nil }

// MediaType says how it is compressed.
func (f file) MediaType() (types.MediaType, error) { return f.cached.MediaType, nil }

// Compressed opens it.
func (f file) Compressed() (io.ReadCloser, error) {
	if f.path == "" {
		return nil, errAway
	}
	fetch.Use(f.path)
	return os.Open(f.path)
}

// History implements banger.ImageFormats.
func (r *Registries) History(img banger.Image) []banger.ImageStep {
	c, known := r.originals(img)
	if img.Config == nil || img.Config.Raw == nil {
		return []banger.ImageStep{{Created: img.Created, By: img.Source, Size: img.Size}}
	}
	var steps []banger.ImageStep
	next := 0
	take := func(s banger.ImageStep) {
		if known && next < len(c.layers) {
			l := c.layers[next]
			s.Layer, s.Size, s.Here = l.Digest.String(), l.Size, l.path != ""
		} else if next < len(img.Config.DiffIDs) {
			s.Layer = img.Config.DiffIDs[next]
		}
		next++
		steps = append(steps, s)
	}
	for _, h := range configFile(img).History {
		s := banger.ImageStep{Created: h.Created.Time, By: strings.TrimSpace(h.CreatedBy), Comment: h.Comment}
		if h.EmptyLayer {
			steps = append(steps, s)
		} else {
			take(s)
		}
	}
	for next < len(img.Config.DiffIDs) { // layers that the history leaves out
		take(banger.ImageStep{})
	}
	return steps
}

// now is the time for a config, as exact as those of other tools.
func now() v1.Time { return v1.Time{Time: time.Now().UTC().Truncate(time.Second)} }
