package api

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"banger"
	"banger/api/wire"
)

// TagImageRequest is the other name of an image.
type TagImageRequest struct {
	Name    string `json:"name"`
	Replace bool   `json:"replace,omitempty"` // take the name from the image that has it
}

// ExportImageQuery says how an image is written.
type ExportImageQuery struct {
	Format string `json:"format"` // "oci" (default) or "docker"
	Squash bool   `json:"squash"` // as one layer
}

func sharingRoutes(images banger.ImageSharing) []wire.Route {
	return []wire.Route{
		wire.Value("TagImage", "POST /v2/images/{image}/tag", wire.Owner, "Gives an image another name. One that is taken is a conflict unless it is to be replaced.",
			func(ctx context.Context, r *http.Request, in TagImageRequest) (banger.Image, error) {
				return images.TagImage(ctx, r.PathValue("image"), in.Name, in.Replace)
			}),
		wire.List("ImageHistory", "GET /v2/images/{image}/history", wire.Owner, "Lists the steps by which an image was made, the first one first.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) ([]banger.ImageStep, error) {
				return images.ImageHistory(ctx, r.PathValue("image"))
			}),
		wire.Raw("ExportImage", "GET /v2/images/{image}/export", wire.Owner, "Gives an image as a tar: an OCI layout, or what docker save writes. An answer that was cut has no end.", "", wire.TarType,
			func(w http.ResponseWriter, r *http.Request, in ExportImageQuery) error {
				return export(images, w, r, in)
			}),
		wire.Stream("SaveImage", "POST /v2/saves", wire.Owner, "Makes an image of a stopped VM: its image, and what it wrote. It can't be started meanwhile.",
			func(ctx context.Context, _ *http.Request, in banger.Save, p banger.Progress) (banger.Image, error) {
				return images.SaveImage(ctx, in, p)
			}),
		wire.Stream("PushImage", "POST /v2/pushes", wire.Owner, "Gives an image to a registry. What has arrived there stays when the client leaves.",
			func(ctx context.Context, _ *http.Request, in banger.Push, p banger.Progress) (banger.Pushed, error) {
				return images.PushImage(ctx, in, p)
			}),
	}
}

func export(images banger.ImageSharing, w http.ResponseWriter, r *http.Request, in ExportImageQuery) error {
	w.Header().Set("Content-Type", wire.TarType)
	out := &started{w: w}
	err := images.ExportImage(r.Context(), banger.Export{Image: r.PathValue("image"), Format: in.Format, Squash: in.Squash}, out, nil)
	if err != nil && out.yes {
		panic(http.ErrAbortHandler) // the client must not take half a tar for a whole one
	}
	return err
}

// started knows whether an answer has begun.
type started struct {
	w   io.Writer
	yes bool
}

func (s *started) Write(p []byte) (int, error) {
	s.yes = true
	return s.w.Write(p)
}

// TagImage implements banger.ImageSharing.
func (c images) TagImage(ctx context.Context, ref, name string, replace bool) (banger.Image, error) {
	var img banger.Image
	err := c.call(ctx, "POST", "/v2/images/"+url.PathEscape(ref)+"/tag", TagImageRequest{name, replace}, &img, nil)
	return img, err
}

// ImageHistory implements banger.ImageSharing.
func (c images) ImageHistory(ctx context.Context, ref string) ([]banger.ImageStep, error) {
	return listed[banger.ImageStep](ctx, c.Client, "/v2/images/"+url.PathEscape(ref)+"/history")
}

// ExportImage implements banger.ImageSharing. Progress is of the bytes that came.
func (c images) ExportImage(ctx context.Context, what banger.Export, w io.Writer, p banger.Progress) error {
	q := url.Values{}
	if what.Format != "" {
		q.Set("format", what.Format)
	}
	if what.Squash {
		q.Set("squash", "true")
	}
	resp, err := send(ctx, c.http, "GET", "/v2/images/"+url.PathEscape(what.Image)+"/export?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 400 {
		return wire.ReadError(resp)
	}
	arrived := &arriving{w: w, progress: p}
	if _, err := io.Copy(arrived, resp.Body); err != nil {
		if ctx.Err() != nil {
			return banger.Errorf(banger.CodeCanceled, "export image %s: %w", what.Image, ctx.Err())
		}
		if arrived.failed != nil {
			return banger.Errorf(banger.CodeInvalid, "write the image: %w", arrived.failed)
		}
		return banger.Errorf(banger.CodeUnavailable, "the image was cut off after %d bytes: %w", arrived.done, err).WithHint("try again; `banger daemon status` says where the daemon's log is")
	}
	return nil
}

// arriving counts what comes.
type arriving struct {
	w        io.Writer
	progress banger.Progress
	done     int64
	failed   error
}

func (a *arriving) Write(b []byte) (int, error) {
	n, err := a.w.Write(b)
	a.failed = err
	if a.done += int64(n); a.progress != nil {
		a.progress(banger.Event{Stage: "write", Done: a.done})
	}
	return n, err
}

// SaveImage implements banger.ImageSharing.
func (c images) SaveImage(ctx context.Context, what banger.Save, p banger.Progress) (banger.Image, error) {
	var img banger.Image
	err := c.call(ctx, "POST", "/v2/saves", what, &img, p)
	return img, hintLost(err, "save it again: an image is made whole or not at all")
}

// PushImage implements banger.ImageSharing.
func (c images) PushImage(ctx context.Context, what banger.Push, p banger.Progress) (banger.Pushed, error) {
	var pushed banger.Pushed
	err := c.call(ctx, "POST", "/v2/pushes", what, &pushed, p)
	return pushed, hintLost(err, "push it again: what has arrived there stays")
}
