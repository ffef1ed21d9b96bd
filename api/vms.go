package api

import (
	"io"
	"net/http"

	"banger"
)

func (s *Server) listVMs(w http.ResponseWriter, r *http.Request) error {
	vms, err := s.VMs.VMs(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list(vms))
}

func (s *Server) createVM(w http.ResponseWriter, r *http.Request) error {
	req, err := body[createRequest](w, r)
	if err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.VM, error) {
		return s.VMs.CreateVM(r.Context(), req.Spec, req.Start, p)
	})
}

func (s *Server) getVM(w http.ResponseWriter, r *http.Request) error {
	vm, err := s.VMs.VM(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, vm)
}

func (s *Server) deleteVM(w http.ResponseWriter, r *http.Request) error {
	if err := s.VMs.DeleteVM(r.Context(), r.PathValue("ref")); err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct{}{})
}

func (s *Server) startVM(w http.ResponseWriter, r *http.Request) error {
	if _, err := body[struct{}](w, r); err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.VM, error) {
		return s.VMs.StartVM(r.Context(), r.PathValue("ref"), p)
	})
}

func (s *Server) stopVM(w http.ResponseWriter, r *http.Request) error {
	opt, err := body[banger.StopOptions](w, r)
	if err != nil {
		return err
	}
	vm, err := s.VMs.StopVM(r.Context(), r.PathValue("ref"), opt)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, vm)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	rc, err := s.VMs.Logs(r.Context(), r.PathValue("ref"), r.URL.Query().Get("follow") == "true")
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream") // a guest's bytes: anything
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // the console may be silent for long
	if _, err := io.Copy(flusher{w}, rc); err != nil && r.Context().Err() == nil {
		s.Log.Warn("logs", "vm", r.PathValue("ref"), "err", err)
		panic(http.ErrAbortHandler) // the client must not take half a log for a whole one
	}
	return nil
}

// flusher passes every write on at once.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// hold keeps a --rm VM alive for as long as the client keeps the request open.
// The first byte says that the lease is held.
func (s *Server) hold(w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("ref")
	if _, err := s.VMs.VM(r.Context(), ref); err != nil {
		return err
	}
	w.Header().Set("Content-Type", ndjson)
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	err := s.Leases.HoldVM(r.Context(), ref)
	if err != nil && r.Context().Err() == nil {
		(&lineWriter{w: w, begun: true}).write(line{Error: banger.AsError(err)})
	}
	return nil
}
