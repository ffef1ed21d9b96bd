package inguest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"banger"
	"banger/api/wire"
	"banger/guest"
)

// PutFilesQuery says where files go in a guest.
type PutFilesQuery struct {
	Path string `json:"path" jsonschema:"required,pattern=^/"` // the directory, which is made if it isn't there
	User string `json:"user,omitempty"`                        // name or uid[:gid] of the guest that writes and owns them; empty: root
}

// GetFilesQuery says which files of a guest are wanted.
type GetFilesQuery struct {
	Path string `json:"path" jsonschema:"required,pattern=^/"` // a file or a directory; DIR/. is what is in the directory
}

func (s handlers) fileRoutes() []wire.Route {
	return []wire.Route{
		wire.Raw("PutFiles", "PUT /v2/vms/{vm}/files", wire.Owner, "Unpacks a tar below a directory of a running VM. What is there is replaced; nothing is written outside of the directory.", wire.TarType, "", s.putFiles),
		wire.Raw("GetFiles", "GET /v2/vms/{vm}/files", wire.Owner, "Packs a file or a directory of a running VM as a tar. What comes is the guest's word: unpack it as anything untrusted. An answer that was cut has no end.", "", wire.TarType, s.getFiles),
	}
}

func (s handlers) putFiles(w http.ResponseWriter, r *http.Request, in PutFilesQuery) error {
	ctx, cancel := linger(r.Context())
	defer cancel()
	c, err := s.inGuest(ctx, r, in.Path)
	if err != nil {
		return err
	}
	return wire.Uploaded(w, r, func() error {
		err := guestError(c.Put(ctx, in.Path, sent{r.Body}, guest.PutOptions{User: in.User}))
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	})
}

func (s handlers) getFiles(w http.ResponseWriter, r *http.Request, in GetFilesQuery) error {
	ctx, cancel := linger(r.Context())
	defer cancel()
	c, err := s.inGuest(ctx, r, in.Path)
	if err != nil {
		return err
	}
	out := &begun{w: w}
	w.Header().Set("Content-Type", wire.TarType)
	err = guestError(c.Get(ctx, in.Path, out))
	switch {
	case err == nil:
		return nil
	case out.yes:
		s.log.Warn("files", "vm", r.PathValue("vm"), "path", in.Path, "err", err)
		panic(http.ErrAbortHandler) // the client must not take half a tar for a whole one
	}
	return err
}

// inGuest is the client of the guest in which a request wants a path.
func (s handlers) inGuest(ctx context.Context, r *http.Request, path string) (*guest.Client, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, banger.Errorf(banger.CodeInvalid, "path is %q: it must begin with /", path)
	}
	vm, err := s.VM(ctx, r.PathValue("vm"))
	if err != nil {
		return nil, err
	}
	return s.guest(vm), nil
}

// lingerTime is how long what was begun in a guest has, to be told of a client's end.
const lingerTime = 3 * time.Second

// linger returns a context that ends a while after ctx.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lingerTime, cancel) })
	return late, func() { stop(); cancel() }
}

// sent is a request's body: that it breaks off is its client's doing.
type sent struct{ r io.Reader }

func (s sent) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = banger.Errorf(banger.CodeInvalid, "request body: %w", err)
	}
	return n, err
}

// begun knows whether anything was written.
type begun struct {
	w   io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = b.yes || len(p) > 0
	return b.w.Write(p)
}
