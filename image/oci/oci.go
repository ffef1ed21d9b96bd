// Package oci makes filesystem images of OCI images: all layers of one flattened into one
// file. It reads an OCI layout or an archive of docker save as a stream.
//
// An image's id is a digest of its layers' DiffIDs and of the writer's version. So it is
// known before anything is downloaded, and the same image from two places is one file.
//
// All that it reads is hostile until it was checked: manifests and configs are bounded,
// and every byte of a layer is checked by the DiffID that the config has for it. Sizes
// are in bytes. Errors that a user may see are banger.Error.
//
// Package rootfs knows how a layer changes those below it.
package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger"
	"banger/image/rootfs"
)

// Bounds of what describes an image.
const (
	maxJSON   = 4 << 20  // of an index, a manifest or a config
	maxConfig = 64 << 10 // of what is kept of a config's settings
	maxKept   = 1 << 20  // of a config or a manifest that is kept as it came
)

// image is an OCI image whose config was checked; its layers weren't.
type image struct {
	config *banger.ImageConfig
	layers []v1.Descriptor // as many as the config has DiffIDs
}

// newImage reads a manifest and its config.
func newImage(digest string, manifest []byte, layers []v1.Descriptor, config []byte) (*image, error) {
	file, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, invalid("the image's config can't be read: %w", err)
	}
	ids := file.RootFS.DiffIDs
	if len(ids) == 0 || len(ids) != len(layers) {
		return nil, invalid("the image's config has %d layers and its manifest %d: it is no image of a root file system", len(ids), len(layers))
	}
	c := configOf(file)
	c.Digest = digest
	for _, id := range ids {
		if err := checkHash(id); err != nil {
			return nil, err
		}
		c.DiffIDs = append(c.DiffIDs, id.String())
	}
	if kept, err := json.Marshal(c); err != nil || len(kept) > maxConfig+len(ids)*100 {
		return nil, invalid("the image's config has %d bytes of settings; it can have %d", len(kept), maxConfig)
	}
	if len(manifest) <= maxKept && len(config) <= maxKept {
		c.Manifest, c.Raw = manifest, config
	}
	return &image{c, layers}, nil
}

func configOf(f *v1.ConfigFile) *banger.ImageConfig {
	c := &banger.ImageConfig{
		Entrypoint: f.Config.Entrypoint, Cmd: f.Config.Cmd, WorkDir: f.Config.WorkingDir, User: f.Config.User,
		Exposed: slices.Sorted(maps.Keys(f.Config.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(f.Config.Volumes)),
		StopSignal: f.Config.StopSignal, Labels: f.Config.Labels,
		Platform: platformOf(f),
	}
	for _, e := range f.Config.Env {
		if name, _, ok := strings.Cut(e, "="); ok && name != "" && !strings.ContainsRune(e, 0) {
			c.Env = append(c.Env, e) // others mean nothing
		}
	}
	if f.Config.Healthcheck != nil && !slices.Equal(f.Config.Healthcheck.Test, []string{"NONE"}) {
		c.Health = f.Config.Healthcheck.Test
	}
	return c
}

func platformOf(f *v1.ConfigFile) string {
	p := v1.Platform{OS: f.OS, Architecture: f.Architecture, Variant: f.Variant}
	if p.OS == "" && p.Architecture == "" { // images of umoci's early versions
		return "linux/amd64"
	}
	return p.String()
}

// id is the image's id on every host.
func (m *image) id() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "layers, flattened by writer %d\n", rootfs.Version)
	for _, id := range m.config.DiffIDs {
		_, _ = fmt.Fprintln(h, id)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// flat are the image's layers for the writer, each opened by open.
func (m *image) flat(open func(ctx context.Context, n int, layer v1.Descriptor) (io.ReadCloser, error)) []rootfs.Layer {
	var list []rootfs.Layer
	for n, l := range m.layers {
		list = append(list, rootfs.Layer{
			Name:   fmt.Sprintf("layer %d of %d (%s)", n+1, len(m.layers), l.Digest),
			DiffID: strings.TrimPrefix(m.config.DiffIDs[n], "sha256:"),
			Open:   func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, n, l) },
		})
	}
	return list
}

func checkHash(h v1.Hash) error {
	if h.Algorithm != "sha256" || len(h.Hex) != 64 || strings.Trim(h.Hex, "0123456789abcdef") != "" {
		return invalid("%q is no digest that is understood: those are sha256", h.String())
	}
	return nil
}

func invalid(format string, args ...any) *banger.Error {
	return banger.Errorf(banger.CodeInvalid, format, args...)
}
