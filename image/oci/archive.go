package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger"
	"banger/image/rootfs"
)

// Bounds of an archive.
const (
	headBytes = 256 << 10        // that are looked at to tell it from a root tar
	maxFiles  = 100_000          // in it
	maxLinks  = 8                // followed to a file
	roomEvery = int64(256 << 20) // bytes between two looks at the disk's free room
)

// archiveName is what the top names of an archive look like: those of the OCI's layout,
// and of docker save in all its years.
var archiveName = regexp.MustCompile(`^(oci-layout|index\.json|manifest\.json|repositories|blobs|(sha256:)?[0-9a-f]{64}(\.json|\.tar(\.gz)?)?)(/|$)`)

// isArchive tells an archive of images from a root tar, by the first entry in its first
// bytes.
func isArchive(head []byte) bool {
	plain, done, err := rootfs.Decompress(bytes.NewReader(head))
	defer done()
	if err != nil {
		return false
	}
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return false
		}
		if name := path.Clean(h.Name); name != "." && h.Typeflag != tar.TypeXGlobalHeader {
			return archiveName.MatchString(name)
		}
	}
}

// archive is an image archive whose files lie in one file without a name.
type archive struct {
	file  *os.File
	size  int64
	most  rootfs.Limits
	files map[string]extent
	links map[string]string
}

// extent is where a file of the archive lies.
type extent struct{ at, size int64 }

// spool reads an archive to its end and keeps its files, as what describes an image may
// come last.
func spool(ctx context.Context, stream io.Reader, file *os.File, most rootfs.Limits, p banger.Progress) (*archive, error) {
	plain, done, err := rootfs.Decompress(stream)
	defer done()
	if err != nil {
		return nil, invalid("the image archive: %w", err)
	}
	a := &archive{file: file, most: most.Of(), files: map[string]extent{}, links: map[string]string{}}
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, invalid("the image archive, after %d files: %w", len(a.files), err)
		}
		if err := a.add(ctx, h, t, p); err != nil {
			return nil, err
		}
	}
}

func (a *archive) add(ctx context.Context, h *tar.Header, content io.Reader, p banger.Progress) error {
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink:
		a.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	case tar.TypeLink:
		a.links[name] = path.Clean(h.Linkname)
		return nil
	default:
		return nil
	}
	if len(a.files) >= maxFiles || len(a.links) >= maxFiles {
		return invalid("the image archive has more than %d files", maxFiles)
	}
	if h.Size > a.most.Bytes-a.size {
		return invalid("the image archive's files have more than %d bytes (image_max_gib in config.toml)", a.most.Bytes)
	}
	begin := a.size
	for left := h.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return banger.Errorf(banger.CodeCanceled, "import: %w", err)
		}
		if err := a.most.Room(a.file); err != nil {
			return err
		}
		n, err := io.CopyN(io.NewOffsetWriter(a.file, a.size), content, min(left, roomEvery))
		a.size += n
		left -= n
		if p != nil {
			p(banger.Event{Stage: "archive", Done: a.size})
		}
		if _, ours := errors.AsType[*os.PathError](err); ours {
			return banger.Errorf(banger.CodeUnavailable, "keep the image archive: %w", err)
		}
		if err != nil {
			return invalid("the image archive is cut off in %q: %w", name, cmp.Or(unexpected(err), err))
		}
	}
	a.files[name] = extent{begin, h.Size}
	return nil
}

// unexpected makes an end too early of an end.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open returns a file of the archive.
func (a *archive) open(name string) (*io.SectionReader, error) {
	name = path.Clean(name)
	for range maxLinks {
		if e, ok := a.files[name]; ok {
			return io.NewSectionReader(a.file, e.at, e.size), nil
		}
		to, ok := a.links[name]
		if !ok {
			return nil, invalid("the image archive has no %q", name)
		}
		name = to
	}
	return nil, invalid("the image archive has a chain of links at %q", name)
}

func (a *archive) read(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxJSON {
		return nil, invalid("%q of the image archive has %d bytes; it can have %d", name, r.Size(), maxJSON)
	}
	return io.ReadAll(r)
}

// image finds the one image of the archive. blob is the name of a layer's file.
func (a *archive) image(want v1.Platform) (m *image, blob func(v1.Descriptor) string, err error) {
	if _, ok := a.files["index.json"]; ok {
		m, err := a.layout(want)
		return m, blobName, err
	}
	return a.saved()
}

func blobName(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }

// layout finds the image of an OCI layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
func (a *archive) layout(want v1.Platform) (*image, error) {
	index, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	read := func(d v1.Descriptor) ([]byte, error) { return a.read(blobName(d)) }
	return choose(want, v1.Descriptor{}, index, source{read, read})
}

// saved finds the image of an archive of docker save, which has no digests but those of
// the layers' content.
func (a *archive) saved() (*image, func(v1.Descriptor) string, error) {
	list, err := a.read("manifest.json")
	if err != nil {
		return nil, nil, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(list, &images); err != nil {
		return nil, nil, invalid("manifest.json of the image archive: %w", err)
	}
	if len(images) != 1 {
		return nil, nil, several(len(images))
	}
	config, err := a.read(images[0].Config)
	if err != nil {
		return nil, nil, err
	}
	var layers []v1.Descriptor
	names := map[v1.Hash]string{}
	file, err := v1.ParseConfigFile(bytes.NewReader(config))
	for i, name := range images[0].Layers {
		if err == nil && i < len(file.RootFS.DiffIDs) {
			names[file.RootFS.DiffIDs[i]] = name
			layers = append(layers, v1.Descriptor{Digest: file.RootFS.DiffIDs[i]})
		}
	}
	if len(layers) != len(images[0].Layers) {
		return nil, nil, invalid("manifest.json of the image archive has %d layers, and the config %d", len(images[0].Layers), len(layers))
	}
	m, err := newImage("", nil, layers, config)
	return m, func(d v1.Descriptor) string { return names[d.Digest] }, err
}

func several(n int) error {
	return invalid("the archive holds %d images; it can have one", n).WithHint("docker save IMAGE and skopeo copy write one image")
}

// importArchive makes a filesystem image of an archive. file is an empty one, for what is
// read.
func (s *Store) importArchive(ctx context.Context, stream io.Reader, file *os.File, p banger.Progress) (banger.Image, error) {
	a, err := spool(ctx, stream, file, s.Limits, p)
	if err != nil {
		return banger.Image{}, err
	}
	m, blob, err := a.image(native)
	if err != nil {
		return banger.Image{}, err
	}
	made, err := s.ImportLayers(ctx, m.id(), m.flat(func(_ context.Context, _ int, layer v1.Descriptor) (io.ReadCloser, error) {
		r, err := a.open(blob(layer))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(r), nil
	}), p)
	made.Config = m.config
	return made, err
}
