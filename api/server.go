package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"banger"
	"banger/unixsock"
	"banger/version"
)

// Server offers the services. The exported fields are set before Serve.
type Server struct {
	VMs     banger.VMService
	Control banger.VMControl
	System  banger.System
	Catalog banger.Catalog
	Builder banger.ImageBuilder
	Leases  banger.Leases
	Making  banger.Operations
	Frozen  banger.Templates
	Stop    func() // ends the daemon; the VMs run on
	Log     *slog.Logger

	changes atomic.Int32 // requests under way that change something
}

// access says who may use a route.
type access int

const (
	nobody access = iota // the zero value: a route that forgot to say
	anyone               // whoever could connect: no more than the socket's mode says
	owner                // the user the daemon runs as
)

type handler func(w http.ResponseWriter, r *http.Request) error

type route struct {
	method, path string
	may          access
	handler      handler
}

// routes is the whole interface. The first two are the same in every version
// of the API, so that any CLI can tell and end any daemon.
func (s *Server) routes() []route {
	c, m, all, f := control{s.Control}, making{s.Making}, whole{s.System}, frozen{s.Frozen}
	return []route{
		{"GET", "/v1/version", anyone, s.version},
		{"POST", "/v1/stop", owner, s.stop},

		{"GET", "/v1/vms", owner, s.listVMs},
		{"POST", "/v1/vms", owner, s.createVM},
		{"GET", "/v1/vms/{ref}", owner, s.getVM},
		{"DELETE", "/v1/vms/{ref}", owner, s.deleteVM},
		{"POST", "/v1/vms/{ref}/start", owner, s.startVM},
		{"POST", "/v1/vms/{ref}/stop", owner, s.stopVM},
		{"PATCH", "/v1/vms/{ref}", owner, c.setVM},
		{"POST", "/v1/vms/{ref}/kill", owner, c.killVM},
		{"POST", "/v1/vms/{ref}/boot", owner, c.bootVM},
		{"POST", "/v1/vms/{ref}/restart", owner, c.restartVM},
		{"POST", "/v1/vms/{ref}/prune", owner, c.pruneVM},
		{"GET", "/v1/vms/{ref}/stats", owner, c.statsVM},
		{"POST", "/v1/vms/{ref}/exec", owner, s.exec},
		{"GET", "/v1/vms/{ref}/logs", owner, s.logs},
		{"GET", "/v1/vms/{ref}/hold", owner, s.hold},
		{"GET", "/v1/vms/{ref}/channel", owner, s.channel},

		{"GET", "/v1/operations", owner, m.list},
		{"POST", "/v1/operations", owner, m.begin},
		{"GET", "/v1/operations/{id}", owner, m.get},
		{"GET", "/v1/operations/{id}/events", owner, m.follow},
		{"POST", "/v1/operations/{id}/cancel", owner, m.cancel},

		{"GET", "/v1/templates", owner, f.list},
		{"POST", "/v1/templates", owner, f.create},
		{"DELETE", "/v1/templates/{id}", owner, f.remove},

		{"GET", "/v1/events", owner, all.events},
		{"POST", "/v1/gc", owner, all.collect},
		{"GET", "/v1/space", owner, all.space},
		{"POST", "/v1/prune", owner, all.prune},

		{"GET", "/v1/images", owner, s.listImages},
		{"POST", "/v1/images", owner, s.importImage},
		{"POST", "/v1/images/build", owner, s.buildImage},
		{"GET", "/v1/images/{ref}", owner, s.getImage},
		{"DELETE", "/v1/images/{ref}", owner, s.deleteImage},
		{"GET", "/v1/kernels", owner, s.listKernels},
		{"POST", "/v1/kernels", owner, s.pullKernel},
		{"DELETE", "/v1/kernels/{ref}", owner, s.deleteKernel},
	}
}

// Serve answers on l until ctx ends, then lets short requests finish and ends
// the long ones. It returns nil after such an end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, s.guard(r))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answerError(w, banger.Errorf(banger.CodeNotFound, "no such route: %s %s", r.Method, r.URL.Path))
	})
	srv := &http.Server{
		Handler:     mux,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			_, uid, _ := unixsock.Peer(c) // -1 is nobody
			return context.WithValue(ctx, uidKey{}, uid)
		},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Every handler saw ctx end; an operation that undoes itself gets this long.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(bound); err != nil {
		_ = srv.Close()
	}
	return nil
}

type uidKey struct{}

// guard is the one door of every route.
func (s *Server) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uid, _ := r.Context().Value(uidKey{}).(int)
		if rt.may != anyone && (rt.may != owner || uid != os.Getuid()) {
			s.Log.Warn("refused", "method", r.Method, "path", r.URL.Path, "uid", uid)
			_ = answer(w, http.StatusForbidden, line{Error: banger.Errorf(banger.CodeInvalid, "user %d may not use the daemon of user %d", uid, os.Getuid())})
			return
		}
		if rt.method != http.MethodGet {
			s.changes.Add(1)
			defer s.changes.Add(-1)
		}
		err := rt.handler(w, r)
		if err == nil {
			return
		}
		if banger.CodeOf(err) == banger.CodeInternal && r.Context().Err() == nil {
			s.Log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		answerError(w, err)
	})
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	busy := int(s.changes.Load())
	if s.Making != nil {
		ops, _ := s.Making.Operations(r.Context()) // then there are none to wait for
		for _, op := range ops {
			if op.Status == banger.OperationRunning {
				busy++
			}
		}
	}
	return answer(w, http.StatusOK, version.Daemon{API: version.API, Build: version.String(), PID: os.Getpid(), Busy: busy})
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) error {
	err := answer(w, http.StatusOK, struct{}{})
	s.Stop()
	return err
}

// answer writes v as the whole answer. The answer has begun after it, so it
// never returns an error to be answered.
func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
	return nil
}

func answerError(w http.ResponseWriter, err error) {
	e := banger.AsError(err)
	_ = answer(w, status(e.Code), line{Error: e})
}

// body decodes a JSON request. Unknown fields are refused: a newer client's
// wish must not be dropped in silence. The body is read to its end, because
// only then does net/http notice that the client left.
func body[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return v, banger.Errorf(banger.CodeInvalid, "the request is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return v, banger.Errorf(banger.CodeInvalid, "request body: %w", err)
	}
	if err := decode(data, &v); err != nil {
		return v, banger.Errorf(banger.CodeInvalid, "request body: %w", err)
	}
	return v, nil
}

func decode(data []byte, v any) error {
	if len(data) == 0 {
		return nil // every request has a useful zero
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}
