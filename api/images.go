package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"

	"banger"
	"banger/api/wire"
)

func (s *Server) imageRoutes() []wire.Route {
	images := s.Images()
	return append(sharingRoutes(images), []wire.Route{
		wire.List("Images", "GET /v2/images", wire.Owner, "Lists all images by name, without their locks.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.Image, error) {
				return images.Images(ctx)
			}),
		importRoute(images),
		// It stops when its client leaves: nobody else waits for it. The next build uses
		// what this one fetched.
		wire.Stream("BuildImage", "POST /v2/builds", wire.Owner, "Builds an image of Debian packages. An empty request means the default image.",
			func(ctx context.Context, _ *http.Request, in banger.Recipe, p banger.Progress) (banger.Image, error) {
				return images.BuildImage(ctx, in, p)
			}),
		wire.Stream("PullImage", "POST /v2/pulls", wire.Owner, "Gets an image from a registry. What was fetched stays when its client leaves, and the next pull goes on with it.",
			func(ctx context.Context, _ *http.Request, in banger.Pull, p banger.Progress) (banger.Image, error) {
				return images.PullImage(ctx, in, p)
			}),
		wire.Value("Image", "GET /v2/images/{image}", wire.Owner, "Gives one image with its lock.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Image, error) {
				return images.Image(ctx, r.PathValue("image"))
			}),
		wire.Value("DeleteImage", "DELETE /v2/images/{image}", wire.Owner, "Removes an image's name, and the image with its last one. It is a conflict while a VM uses it.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				return wire.Nothing{}, images.DeleteImage(ctx, r.PathValue("image"))
			}),
	}...)
}

// importRoute reads a tar from the body while it answers with progress.
func importRoute(images banger.ImageService) wire.Route {
	return wire.Lines[ImportImageQuery, banger.Image]("ImportImage", "POST /v2/images", wire.Owner, "Makes an image of a root file system that comes as a tar. A name that is taken is a conflict unless it is to be replaced.", wire.TarType,
		func(w http.ResponseWriter, r *http.Request, in ImportImageQuery) error {
			return wire.Uploaded(w, r, func() error {
				return wire.Progress(w, func(p banger.Progress) (banger.Image, error) {
					return images.ImportImage(r.Context(), in.Name, in.Source, in.Replace, r.Body, p)
				})
			})
		})
}

// ImportImage implements banger.ImageService.
func (c images) ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
	q := url.Values{"name": {name}, "source": {source}}
	if replace {
		q.Set("replace", "true")
	}
	var img banger.Image
	err := c.upload(ctx, "/v2/images?"+q.Encode(), tar, &img, p)
	return img, err
}

// upload sends a tar and reads the answer.
func (c *Client) upload(ctx context.Context, path string, tar io.Reader, out any, p banger.Progress) error {
	in := &gate{r: tar}
	defer in.shut()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the connection if the answer came before the tar's end
	resp, err := send(ctx, c.http, "POST", path, in)
	if err == nil {
		err = finish(ctx, resp, out, p)
	}
	if failed := in.failed(); err != nil && failed != nil {
		return banger.Errorf(banger.CodeInvalid, "reading the tar: %w", failed)
	}
	return err
}

// gate passes reads on until it is shut. It is needed because net/http may go on
// reading a request's body after the answer has come.
type gate struct {
	mu   sync.Mutex // guards done and err, never held while r is read
	r    io.Reader
	done bool
	err  error // what r failed with
}

func (g *gate) Read(p []byte) (int, error) {
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	if done {
		return 0, io.ErrClosedPipe
	}
	n, err := g.r.Read(p)
	if err != nil && err != io.EOF {
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
	}
	return n, err
}

func (g *gate) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *gate) shut() {
	g.mu.Lock()
	g.done = true
	g.mu.Unlock()
}

// Images implements banger.ImageService.
func (c images) Images(ctx context.Context) ([]banger.Image, error) {
	return listed[banger.Image](ctx, c.Client, "/v2/images")
}

// DeleteImage implements banger.ImageService.
func (c images) DeleteImage(ctx context.Context, ref string) error {
	return c.call(ctx, "DELETE", "/v2/images/"+url.PathEscape(ref), nil, nil, nil)
}

// Image implements banger.ImageService.
func (c images) Image(ctx context.Context, ref string) (banger.Image, error) {
	return got[banger.Image](ctx, c.Client, "/v2/images/"+url.PathEscape(ref))
}

// PullImage implements banger.ImageService.
func (c images) PullImage(ctx context.Context, what banger.Pull, p banger.Progress) (banger.Image, error) {
	var img banger.Image
	err := c.call(ctx, "POST", "/v2/pulls", what, &img, p)
	return img, hintLost(err, "try again: what was fetched is kept")
}

// BuildImage implements banger.ImageService.
func (c images) BuildImage(ctx context.Context, r banger.Recipe, p banger.Progress) (banger.Image, error) {
	var img banger.Image
	const again = "try again: what was fetched is kept"
	err := c.call(ctx, "POST", "/v2/builds", r, &img, p)
	if e, ok := errors.AsType[*banger.Error](err); ok && ctx.Err() != nil {
		return img, e.WithHint(again)
	}
	return img, hintLost(err, again)
}
