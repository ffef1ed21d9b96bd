package oci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger"
)

// native is what VMs run.
var native = v1.Platform{OS: "linux", Architecture: "amd64"}

// maxNested is how deep indexes may lie in each other.
const maxNested = 4

// source gets what describes an image. Its content is checked by who asks.
type source struct {
	manifest func(v1.Descriptor) ([]byte, error)
	config   func(v1.Descriptor) ([]byte, error)
}

// choose finds the one image for a platform that a manifest or an index leads to. d
// describes it; without a digest it is trusted as it is.
func choose(want v1.Platform, d v1.Descriptor, content []byte, get source) (*image, error) {
	for range maxNested {
		var either struct {
			v1.Manifest
			Manifests []v1.Descriptor `json:"manifests"`
		}
		if d.Digest != (v1.Hash{}) {
			if err := verify(d, content); err != nil {
				return nil, err
			}
		}
		if err := json.NewDecoder(bytes.NewReader(content)).Decode(&either); err != nil {
			return nil, invalid("the image's manifest can't be read: %w", err)
		}
		var err error
		if either.Manifests == nil {
			return chosen(want, d, content, either.Manifest, get)
		}
		if d, err = pick(want, either.Manifests); err != nil {
			return nil, err
		}
		if err := checkHash(d.Digest); err != nil {
			return nil, err
		}
		if content, err = get.manifest(d); err != nil {
			return nil, err
		}
	}
	return nil, invalid("the image's indexes lie in each other, more than %d deep", maxNested)
}

func chosen(want v1.Platform, d v1.Descriptor, raw []byte, m v1.Manifest, get source) (*image, error) {
	if m.SchemaVersion == 1 || m.Config.Digest == (v1.Hash{}) {
		return nil, invalid("the image's manifest names no config: it is of a kind that isn't supported (Docker's schema 1), or no image")
	}
	for _, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkHash(l.Digest); err != nil {
			return nil, err
		}
	}
	config, err := get.config(m.Config)
	if err == nil {
		err = verify(m.Config, config)
	}
	if err != nil {
		return nil, err
	}
	digest := ""
	if d.Digest != (v1.Hash{}) {
		digest = d.Digest.String()
	}
	found, err := newImage(digest, raw, m.Layers, config)
	if err != nil {
		return nil, err
	}
	if have := found.config.Platform; !suits(want, have) {
		return nil, banger.Errorf(banger.CodeInvalid, "the image is made for %s, and %s was asked for", have, want.String()).
			WithHint("VMs run linux/amd64")
	}
	return found, nil
}

// suits reports whether a platform, "os/architecture/variant", is the wanted one.
func suits(want v1.Platform, have string) bool {
	return have == want.String() || strings.HasPrefix(have, want.String()+"/")
}

// pick finds a platform's image in an index. Where none says its platform, and there is
// one only, it is that one.
func pick(want v1.Platform, list []v1.Descriptor) (v1.Descriptor, error) {
	list = slices.DeleteFunc(slices.Clone(list), func(d v1.Descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "unknown" // attestations of buildx
	})
	var fits []v1.Descriptor
	var others []string
	for _, d := range list {
		switch {
		case d.Platform == nil || suits(want, d.Platform.String()):
			fits = append(fits, d)
		default:
			others = append(others, d.Platform.String())
		}
	}
	if len(fits) > 1 { // one that says its platform is better than one that doesn't
		if said := slices.DeleteFunc(slices.Clone(fits), func(d v1.Descriptor) bool { return d.Platform == nil }); len(said) > 0 {
			fits = said[:1]
		}
	}
	switch len(fits) {
	case 1:
		return fits[0], nil
	case 0:
		return v1.Descriptor{}, invalid("the image isn't made for %s, only for %s", want.String(), strings.Join(others, ", ")).WithHint("VMs run linux/amd64")
	}
	return v1.Descriptor{}, several(len(fits))
}

// verify checks content by its digest.
func verify(d v1.Descriptor, content []byte) error {
	if sum := sha256.Sum256(content); d.Digest.Algorithm != "sha256" || hex.EncodeToString(sum[:]) != d.Digest.Hex {
		return invalid("what describes the image is damaged: it isn't %s", d.Digest)
	}
	return nil
}
