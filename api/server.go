package api

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"banger"
	"banger/api/wire"
	"banger/host/unixsock"
	"banger/version"
)

// Server offers the services. The exported fields are set before Serve.
type Server struct {
	banger.Services
	Stop   func() // ends the daemon; the VMs run on
	Ending func() // ends the services' work when the daemon ends, before open requests are broken off; may be nil
	Log    *slog.Logger

	changes atomic.Int32 // how many requests that change something are under way
}

// routes is the whole interface.
func (s *Server) routes() []wire.Route {
	return slices.Concat(s.daemonRoutes(), s.vmRoutes(), s.operationRoutes(), s.imageRoutes(), s.kernelRoutes(), s.templateRoutes(), s.systemRoutes())
}

// Routes returns the whole interface, to be described.
func Routes() []wire.Route { return (&Server{Services: banger.Parts{}}).routes() }

// Description is the interface as OpenAPI 3.1 describes it. It is made from Routes; a
// test holds it to them.
//
//go:embed openapi.json
var Description []byte

func (s *Server) daemonRoutes() []wire.Route {
	return []wire.Route{
		wire.Value("Version", "GET /v2/version", wire.Anyone, "Tells which build the daemon is, and whether it is busy.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) (version.Daemon, error) {
				return s.self(ctx), nil
			}),
		wire.Value("Stop", "POST /v2/stop", wire.Owner, "Ends the daemon. Its VMs run on, and the next command starts another daemon.",
			func(context.Context, *http.Request, wire.Nothing) (wire.Nothing, error) {
				s.Stop()
				return wire.Nothing{}, nil
			}),
		wire.Raw("OpenAPI", "GET /v2/openapi.json", wire.Anyone, "Gives this description.", "", wire.JSONType,
			func(w http.ResponseWriter, r *http.Request, _ wire.Nothing) error {
				w.Header().Set("Content-Type", wire.JSONType)
				_, _ = w.Write(Description)
				return nil
			}),
	}
}

// formerRoutes are what is left of version 1, for clients that know no other: they
// can tell that they are too old, and end the daemon.
func (s *Server) formerRoutes() []wire.Route {
	return []wire.Route{
		wire.Value("", "GET /v1/version", wire.Anyone, "", func(ctx context.Context, _ *http.Request, _ wire.Nothing) (version.Daemon, error) {
			self := s.self(ctx)
			self.API = version.TooOld
			return self, nil
		}),
		wire.Value("", "POST /v1/stop", wire.Owner, "", func(context.Context, *http.Request, wire.Nothing) (map[string]string, error) {
			s.Stop()
			return map[string]string{}, nil
		}),
	}
}

// Serve answers requests on l until ctx ends. Then it calls Ending, lets short
// requests finish, breaks long ones off, and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	requests, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	defer breakOff()
	srv := &http.Server{
		Handler:     s.handler(),
		BaseContext: func(net.Listener) context.Context { return requests },
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
	if s.Ending != nil {
		s.Ending()
	}
	breakOff()
	// Every handler saw ctx end; undoing its work may take it this long.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(bound); err != nil {
		_ = srv.Close()
	}
	return nil
}

// handler leads each request to its route.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range slices.Concat(s.routes(), s.formerRoutes()) {
		mux.Handle(rt.Method+" "+rt.Path, s.guard(rt))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		// The mux would redirect a path like /v2/vms//start to another route.
		if p := r.URL.EscapedPath(); pattern != "" && path.Clean(p) == p {
			mux.ServeHTTP(w, r)
			return
		}
		if allow := allowed(mux, r); len(allow) > 0 {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			err := banger.Errorf(banger.CodeInvalid, "%s can't be done to %s", r.Method, r.URL.Path).WithHint("what can be: %s", strings.Join(allow, ", "))
			_ = wire.Answer(w, http.StatusMethodNotAllowed, wire.Line{Error: err})
			return
		}
		wire.AnswerError(w, banger.Errorf(banger.CodeNotFound, "no such route: %s %s", r.Method, r.URL.Path))
	})
}

// allowed are the methods that there are for a request's path.
func allowed(mux *http.ServeMux, r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		with := r.Clone(r.Context())
		with.Method = method
		if _, pattern := mux.Handler(with); pattern != "" && path.Clean(r.URL.EscapedPath()) == r.URL.EscapedPath() {
			methods = append(methods, method)
		}
	}
	return methods
}

type uidKey struct{}

// guard checks access before every route's handler, and answers its errors.
func (s *Server) guard(rt wire.Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uid, _ := r.Context().Value(uidKey{}).(int)
		if rt.May != wire.Anyone && (rt.May != wire.Owner || uid != os.Getuid()) {
			s.Log.Warn("refused", "method", r.Method, "path", r.URL.Path, "uid", uid)
			wire.AnswerError(w, banger.Errorf(banger.CodeForbidden, "user %d may not use the daemon of user %d", uid, os.Getuid()))
			return
		}
		if rt.Method != http.MethodGet {
			s.changes.Add(1)
			defer s.changes.Add(-1)
		}
		err := rt.Serve(w, r)
		if err == nil {
			return
		}
		if errors.Is(err, banger.ErrEnding) {
			panic(http.ErrAbortHandler) // break off without an answer, so that the client asks the next daemon
		}
		if banger.CodeOf(err) == banger.CodeInternal && r.Context().Err() == nil {
			s.Log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		wire.AnswerError(w, err)
	})
}

// self is what the daemon says of itself.
func (s *Server) self(ctx context.Context) version.Daemon {
	busy := int(s.changes.Load())
	if all := s.Operations(); all != nil {
		ops, _ := all.Operations(ctx) // on an error there are none to wait for
		for _, op := range ops {
			if op.Status == banger.OperationRunning {
				busy++
			}
		}
	}
	return version.Daemon{API: version.API, Build: version.String(), PID: os.Getpid(), Busy: busy}
}
