package api_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger"
)

// sharing notes what it is asked for.
type sharing struct{ got []any }

func (s *sharing) TagImage(_ context.Context, ref, name string, replace bool) (banger.Image, error) {
	s.got = append(s.got, ref, name, replace)
	return banger.Image{Name: name}, nil
}

func (s *sharing) ImageHistory(_ context.Context, ref string) ([]banger.ImageStep, error) {
	s.got = append(s.got, ref)
	return []banger.ImageStep{{Created: aVM.Created, By: "RUN x", Layer: "sha256:1", Size: 3, Here: true}}, nil
}

func (s *sharing) SaveImage(_ context.Context, what banger.Save, p banger.Progress) (banger.Image, error) {
	s.got = append(s.got, what)
	p(banger.Event{Stage: "layer"})
	return banger.Image{Name: what.Name}, nil
}

func (s *sharing) ExportImage(_ context.Context, what banger.Export, w io.Writer, _ banger.Progress) error {
	s.got = append(s.got, what)
	if what.Image == "nosuch" {
		return banger.Errorf(banger.CodeNotFound, "no image")
	}
	_, err := io.WriteString(w, strings.Repeat("tar", 1000))
	if what.Squash && err == nil {
		err = banger.Errorf(banger.CodeUnavailable, "the disk is full")
	}
	return err
}

func (s *sharing) PushImage(_ context.Context, what banger.Push, p banger.Progress) (banger.Pushed, error) {
	s.got = append(s.got, what)
	p(banger.Event{Stage: "push"})
	return banger.Pushed{Ref: what.Ref, Digest: "sha256:2", Layers: 3, Remade: true}, nil
}

// Sharing images carries its arguments there and its results back, and an export that was
// cut off isn't taken for a whole one.
func TestSharing(t *testing.T) {
	s := &sharing{}
	c := newClient(t, &services{ImageSharing: s}).Images()
	ctx, p := t.Context(), func(banger.Event) {}
	save := banger.Save{VM: "a", Name: "b/c:d", Replace: true, Comment: "e"}
	push := banger.Push{Image: "a", Ref: "b/c:d", Squash: true, Insecure: true, Credentials: banger.Credentials{User: "u", Password: "p"}}
	img, err := c.TagImage(ctx, "a/b:c", "d", true)
	if err != nil || img.Name != "d" {
		t.Error(img, err)
	}
	steps, err := c.ImageHistory(ctx, "a/b:c")
	if err != nil || len(steps) != 1 || steps[0].By != "RUN x" || !steps[0].Here {
		t.Error(steps, err)
	}
	if img, err = c.SaveImage(ctx, save, p); err != nil || img.Name != "b/c:d" {
		t.Error(img, err)
	}
	if pushed, err := c.PushImage(ctx, push, p); err != nil || !pushed.Remade || pushed.Layers != 3 {
		t.Error(pushed, err)
	}
	export := banger.Export{Image: "a/b:c", Format: banger.FormatDocker}
	var out bytes.Buffer
	if err := c.ExportImage(ctx, export, &out, p); err != nil || out.Len() != 3000 {
		t.Error(out.Len(), err)
	}
	if diff := cmp.Diff([]any{"a/b:c", "d", true, "a/b:c", save, push, export}, s.got); diff != "" {
		t.Error(diff)
	}
	if err := c.ExportImage(ctx, banger.Export{Image: "nosuch"}, &out, p); banger.CodeOf(err) != banger.CodeNotFound {
		t.Error(err)
	}
	if err := c.ExportImage(ctx, banger.Export{Image: "a", Squash: true}, &out, p); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("half an image: %v", err)
	}
	full := errWriter{}
	if err := c.ExportImage(ctx, export, full, p); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "short write") {
		t.Errorf("a full disk: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	if err := c.ExportImage(gone, export, cancels{cancel}, p); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
}

type errWriter struct{}

func (errWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// cancels is a writer during whose write the user gives up.
type cancels struct{ cancel context.CancelFunc }

func (c cancels) Write([]byte) (int, error) {
	c.cancel()
	return 0, io.ErrClosedPipe
}
