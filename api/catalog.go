package api

import (
	"io"
	"net/http"
	"time"

	"banger"
)

func (s *Server) listImages(w http.ResponseWriter, r *http.Request) error {
	images, err := s.Catalog.Images(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list(images))
}

// importImage reads the tar from the body while it answers with progress.
func (s *Server) importImage(w http.ResponseWriter, r *http.Request) error {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return err
	}
	q := r.URL.Query()
	err := stream(w, func(p banger.Progress) (banger.Image, error) {
		return s.Catalog.ImportImage(r.Context(), q.Get("name"), q.Get("source"), q.Get("replace") == "true", r.Body, p)
	})
	if err != nil {
		answerError(w, err)
	}
	// A connection closed with unread bytes is reset, and the answer may be lost
	// with it: let the client read it and stop sending.
	_ = rc.Flush()
	_ = rc.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, r.Body)
	return nil
}

// buildImage ends with its client: nobody else waits for a build, and the next
// one goes on with what this one fetched.
func (s *Server) buildImage(w http.ResponseWriter, r *http.Request) error {
	recipe, err := body[banger.Recipe](w, r)
	if err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.Image, error) {
		return s.Builder.BuildImage(r.Context(), recipe, p)
	})
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) error {
	img, err := s.Builder.Image(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, img)
}

func (s *Server) deleteImage(w http.ResponseWriter, r *http.Request) error {
	if err := s.Catalog.DeleteImage(r.Context(), r.PathValue("ref")); err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct{}{})
}

func (s *Server) listKernels(w http.ResponseWriter, r *http.Request) error {
	kernels, err := s.Catalog.Kernels(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list(kernels))
}

func (s *Server) deleteKernel(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() (struct{}, error) {
		return struct{}{}, s.Catalog.DeleteKernel(r.Context(), r.PathValue("ref"))
	})
}

func (s *Server) pullKernel(w http.ResponseWriter, r *http.Request) error {
	req, err := body[pullRequest](w, r)
	if err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.Kernel, error) {
		return s.Catalog.PullKernel(r.Context(), req.Name, p)
	})
}

// list makes an empty list [] on the wire, not null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
