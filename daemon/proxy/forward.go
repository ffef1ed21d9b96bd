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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/guest"
	"banger/guest/flow"
)

// How long after its start a VM's programs have until they listen, and how often they are
// asked.
const (
	upTime   = 30 * time.Second
	askPause = 100 * time.Millisecond
)

// forward passes a request on to a port of a VM.
//
// The host that a server sees is the one that the browser asked for: servers compare it
// with the origin of what a page sends, and make their links and redirects with it. Those
// that only answer to names they know, know all that end with .localhost.
func (p *Server) forward(w http.ResponseWriter, r *http.Request, vm banger.VM, port int) {
	out := r.Clone(r.Context())
	out.URL = &url.URL{Scheme: "http", Host: net.JoinHostPort(vm.ID, strconv.Itoa(port)), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	p.pass.ServeHTTP(w, out)
}

func (p *Server) reverse() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it is: nobody here reads it
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		FlushInterval: -1, // what a server sends, the browser gets at once
		ErrorHandler:  p.failed,
		ErrorLog:      slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
		ModifyResponse: func(r *http.Response) error {
			ownCookies(r.Header)
			return nil
		},
		Transport: &http.Transport{
			DialContext:            p.dial,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        pooledTime,
			MaxResponseHeaderBytes: maxHead,
		},
	}
}

// ownCookies removes cookies that a guest sets for all names of this host: they would go
// to the user's other servers. All others stay as they are.
func ownCookies(h http.Header) {
	all := h.Values("Set-Cookie")
	own := slices.DeleteFunc(slices.Clone(all), forAll)
	if len(own) < len(all) {
		h.Del("Set-Cookie")
		for _, line := range own {
			h.Add("Set-Cookie", line)
		}
	}
}

// forAll reports whether a cookie names the domain of all names, read as browsers read it
// (RFC 6265, 5.2): they take much that the grammar doesn't have. Of several domains the last
// counts for them, and here each. One that is written in other letters may mean any.
func forAll(line string) bool {
	_, attributes, _ := strings.Cut(line, ";")
	for part := range strings.SplitSeq(attributes, ";") {
		name, value, _ := strings.Cut(part, "=")
		if !strings.EqualFold(strings.Trim(name, " \t"), "domain") {
			continue
		}
		other := strings.ContainsFunc(value, func(r rune) bool { return r == '%' || r > 126 })
		if other || strings.EqualFold(strings.Trim(value, " \t."), domain) {
			return true
		}
	}
	return false
}

// errSilent means that nothing listens on a port.
type errSilent struct {
	vm   string
	port string
	err  error
}

func (e *errSilent) Error() string { return "port " + e.port + " of VM " + e.vm + ": " + e.err.Error() }
func (e *errSilent) Unwrap() error { return e.err }

// dial connects to id:port, and starts that VM if it has to. After a start the port is
// waited for.
func (p *Server) dial(ctx context.Context, _, address string) (net.Conn, error) {
	id, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for ended := 0; ; {
		vm, err := p.running(ctx, id)
		if err != nil {
			return nil, err
		}
		to := func(ctx context.Context) (net.Conn, error) { return p.VMs.Dial(ctx, id) }
		c, err := flow.Dial(ctx, to, flow.DialRequest{Network: "tcp", Address: net.JoinHostPort(domain, port)})
		if err == nil {
			return c, nil
		}
		switch refused := guest.CodeOf(err) == guest.CodeUnavailable; {
		case refused && time.Since(vm.Started) < upTime:
		case refused:
			return nil, &errSilent{vm.Spec.Name, port, err}
		case banger.CodeOf(err) == banger.CodeNotRunning && ended == 0:
			ended++ // it was about to stop
		default:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(askPause):
		}
	}
}

// running returns the VM once it runs. It starts it if the request may do that.
func (p *Server) running(ctx context.Context, id string) (banger.VM, error) {
	if ctx.Value(mayNotStart{}) == nil {
		return p.starts.running(ctx, p.VMs, id)
	}
	vm, err := p.VMs.VM(ctx, id)
	if err == nil && vm.State != banger.Running {
		err = errForeign(vm)
	}
	return vm, err
}

// starts begins one start of a VM for all who want it. It goes on if they leave.
type starts struct {
	ctx context.Context // the proxy's life

	mu    sync.Mutex
	going map[string]*start // by id
}

type start struct {
	done chan struct{}
	vm   banger.VM
	err  error
}

// running returns the VM once it runs.
func (s *starts) running(ctx context.Context, vms banger.VMService, id string) (banger.VM, error) {
	vm, err := vms.VM(ctx, id)
	if err != nil || vm.State == banger.Running {
		return vm, err
	}
	s.mu.Lock()
	one := s.going[id]
	if one == nil {
		one = &start{done: make(chan struct{})}
		if s.going == nil {
			s.going = map[string]*start{}
		}
		s.going[id] = one
		go func() {
			one.vm, one.err = vms.StartVM(s.ctx, id, banger.StartOptions{}, nil)
			s.mu.Lock()
			delete(s.going, id)
			s.mu.Unlock()
			close(one.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return vm, ctx.Err()
	case <-one.done:
		return one.vm, one.err
	}
}

// failed answers a request that came to nothing.
func (p *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there, or the daemon ends
	}
	if silent, ok := errors.AsType[*errSilent](err); ok {
		p.fail(w, r, http.StatusBadGateway, fmt.Sprintf("Nothing listens on port %s of VM %s", silent.port, silent.vm),
			"Start a server there, or see which ports there are: http://"+pageOf(silent.vm)+portSuffix(r.Host)+"/")
		return
	}
	if e, ok := errors.AsType[*banger.Error](err); ok {
		p.fail(w, r, statusOf(err), e.Message, e.Hint)
		return
	}
	p.fail(w, r, http.StatusBadGateway, "The server in the VM gave no answer: "+guest.Clean(err.Error()), "")
}
