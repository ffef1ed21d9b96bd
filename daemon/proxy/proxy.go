// Package proxy is one HTTP server for a user, by which a browser reaches what listens in
// VMs: http://3000.web.localhost:8788/ is port 3000 of the VM web, http://web.localhost:8788/
// a page of its ports. It listens on this host's own addresses and serves this user alone.
// A name of a stopped VM starts it.
//
// It knows nothing of how VMs are started and reached, and reads nothing of what it passes
// on but HTTP's heads.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"banger"
	"banger/host/loopback"
)

// Bounds.
const (
	maxConns   = 2048 // from browsers, at a time
	maxHead    = 256 << 10
	headTime   = 15 * time.Second // for a request's head
	idleTime   = 2 * time.Minute  // of a browser's connection between requests
	pooledTime = 5 * time.Second  // of one to a guest: a VM with an open connection isn't idle
	againTime  = 3 * time.Second  // until a port is tried again that another program has
)

// Server serves while Run runs. The exported fields are set before.
type Server struct {
	VMs banger.VMService
	// Look opens a stream to a guest's agent as VMs.Dial does, without counting as a use.
	Look func(ctx context.Context, ref string) (net.Conn, error)
	Port int // 0: none
	Log  *slog.Logger

	pass   *httputil.ReverseProxy
	starts starts

	mu      sync.Mutex
	problem error // why it doesn't serve
	serving bool
}

// Proxy implements banger.SystemService in part.
func (p *Server) Proxy(context.Context) (banger.Proxy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := banger.Proxy{Port: p.Port, Serving: p.serving}
	if p.problem != nil {
		e := banger.AsError(p.problem)
		at.Problem, at.Hint = e.Message, e.Hint
	}
	return at, nil
}

// Run serves until ctx ends. While another program has the port it says so and tries again.
func (p *Server) Run(ctx context.Context) {
	if p.Port == 0 {
		return
	}
	p.starts.ctx = ctx
	p.pass = p.reverse()
	for ctx.Err() == nil {
		all, err := loopback.Listen(p.Port)
		p.now(err)
		if err == nil {
			p.serve(ctx, all)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(againTime):
		}
	}
}

// now notes whether the port is ours, and logs that when it changes.
func (p *Server) now(err error) {
	if err != nil {
		hint := "set proxy_port in config.toml to another port, or to 0, which turns the proxy off; then `banger daemon restart`"
		if free, ferr := loopback.Free(p.Port); ferr == nil {
			hint = fmt.Sprintf("set proxy_port = %d in config.toml, which is free, then `banger daemon restart`", free)
		}
		err = banger.Errorf(banger.CodeUnavailable, "the proxy's port %d is taken: %w", p.Port, err).WithHint("%s", hint)
	}
	p.mu.Lock()
	changed := p.serving != (err == nil) || (p.problem == nil) != (err == nil)
	p.serving, p.problem = err == nil, err
	p.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		p.Log.Warn("browsers can't reach VMs", "err", err, "hint", banger.AsError(err).Hint)
	default:
		p.Log.Info("browsers reach VMs", "at", fmt.Sprintf("http://%s:%d/", domain, p.Port))
	}
}

// refusal is for other users of this host.
const refusal = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"This is another user's proxy to their VMs.\n"

// serve answers until ctx ends or a listener breaks.
func (p *Server) serve(ctx context.Context, all []net.Listener) {
	srv := &http.Server{
		Handler:           http.HandlerFunc(p.handle),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	room := make(chan struct{}, maxConns)
	var ended sync.WaitGroup
	for _, l := range all {
		l := &bounded{loopback.Mine(l, refusal, p.refused), room}
		ended.Go(func() {
			if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				p.Log.Error("the proxy", "err", err)
			}
			_ = srv.Close() // both addresses or none
		})
	}
	ended.Wait()
}

// refused logs who was refused.
func (p *Server) refused(err error) { p.Log.Warn("the proxy refused a connection", "err", err) }

// bounded waits with the next connection while there are as many as there may be.
type bounded struct {
	net.Listener
	room chan struct{}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b.room <- struct{}{}
	return &counted{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

type counted struct {
	net.Conn
	leave func()
}

// Close makes room for another one.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// CloseWrite ends our direction: of an upgraded connection either may end first.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// handle leads a request to what its name means.
func (p *Server) handle(w http.ResponseWriter, r *http.Request) {
	t, ours, ok := parse(r.Host)
	switch {
	case !ours:
		p.fail(w, r, http.StatusMisdirectedRequest, fmt.Sprintf("%.100q is no name of this host", r.Host),
			"VMs are reached as http://PORT.NAME.localhost, so that no page of somebody else's passes for theirs.")
		return
	case !ok:
		p.fail(w, r, http.StatusNotFound, fmt.Sprintf("%.100q names no VM", r.Host), "Ports are reached as http://3000.NAME.localhost or http://3000-NAME.localhost, and http://NAME.localhost lists them.")
		return
	case t.vm == "":
		p.page(w, r, nil)
		return
	}
	vm, err := p.find(r.Context(), t.vm)
	switch {
	case err != nil:
		p.fail(w, r, statusOf(err), err.Error(), banger.AsError(err).Hint)
	case t.port == 0:
		p.page(w, r, &vm)
	default:
		if !mayStart(r) {
			r = r.WithContext(context.WithValue(r.Context(), mayNotStart{}, true))
		}
		p.forward(w, r, vm, t.port)
	}
}

// find returns the VM of exactly this name.
func (p *Server) find(ctx context.Context, name string) (banger.VM, error) {
	all, err := p.VMs.VMs(ctx)
	if err != nil {
		return banger.VM{}, err
	}
	for _, vm := range all {
		if vm.Spec.Name == name && vm.State != banger.Deleting {
			return vm, nil
		}
	}
	return banger.VM{}, banger.Errorf(banger.CodeNotFound, "no VM %q", name).WithHint("`banger ps` lists the VMs")
}

// mayStart reports whether a request may start a VM. Any page of any site can make a
// browser ask for an address; then only a person who follows a link starts one. A browser
// says whose page asks, in Sec-Fetch-Site or, of a WebSocket, perhaps in Origin alone. What
// isn't a browser says neither.
func mayStart(r *http.Request) bool {
	is := func(name, value string) bool { return r.Header.Get("Sec-Fetch-"+name) == value }
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "cross-site":
		return is("User", "?1") && is("Mode", "navigate") && is("Dest", "document")
	case "":
		return ourOrigin(r.Header.Values("Origin"))
	}
	return true
}

// ourOrigin reports whether a page that asks is of this host, if it is a page.
func ourOrigin(origins []string) bool {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil {
			return false
		}
		if _, ours, _ := parse(u.Host); !ours {
			return false
		}
	}
	return true
}

// mayNotStart is in the context of a request that may start no VM, also if its VM stops
// meanwhile.
type mayNotStart struct{}

// errForeign refuses such a request.
func errForeign(vm banger.VM) error {
	return banger.Errorf(banger.CodeForbidden, "VM %s is %s, and another site's page may not start it", vm.Spec.Name, vm.State).
		WithHint("Open this address yourself, or `banger start %s`.", vm.Spec.Name)
}

// statusOf is HTTP's status for an error.
func statusOf(err error) int {
	switch banger.CodeOf(err) {
	case banger.CodeNotFound:
		return http.StatusNotFound
	case banger.CodeForbidden:
		return http.StatusForbidden
	case banger.CodeTimeout:
		return http.StatusGatewayTimeout
	case banger.CodeConflict, banger.CodeUnavailable, banger.CodeNotRunning:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
