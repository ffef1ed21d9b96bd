package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/guest"
	"banger/guest/flow"
)

//go:embed page
var files embed.FS

var style = func() string {
	text, err := files.ReadFile("page/page.css")
	if err != nil {
		panic(err) // it is in the program
	}
	return string(text)
}()

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"style": func() template.CSS { return template.CSS(style) },
}).ParseFS(files, "page/*.html"))

// lookTime is how long a guest may take to say what listens in it.
const lookTime = 5 * time.Second

// security is what a page of ours may do, which is little: guests choose some of its text.
var security = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// view is what a page shows.
type view struct {
	Home string // the list's address
	Live bool   // it is read again and again
	VM   *vmView
	VMs  []vmView
	// Ports of VM; Problem is why they aren't known.
	Ports   []portView
	Problem string
	Fail    *failure
}

type vmView struct {
	Name, URL, State, Image, Isolation, Since string
}

type portView struct {
	Port             uint16
	Network, Address string
	Process, User    string
	PID              int
	URL, Host        string // "": no address for a browser
}

type failure struct {
	Status    int
	Found, Do string
}

// page answers with the list, or with one VM's page.
func (p *Server) page(w http.ResponseWriter, r *http.Request, vm *banger.VM) {
	switch name := strings.TrimPrefix(r.URL.Path, "/"); {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		p.fail(w, r, http.StatusMethodNotAllowed, r.Method+" can't be done to this page", "")
		return
	case name == "page.js":
		guarded(w)
		http.ServeFileFS(w, r, files, "page/page.js")
		return
	case name != "":
		p.fail(w, r, http.StatusNotFound, fmt.Sprintf("There is no %.100q here", r.URL.Path), "The ports of VM NAME are at http://PORT.NAME.localhost"+portSuffix(r.Host)+"/")
		return
	}
	at := view{Live: true}
	if vm == nil {
		all, err := p.VMs.VMs(r.Context())
		if err != nil {
			at.Problem = err.Error()
		}
		for _, vm := range all {
			at.VMs = append(at.VMs, viewOf(vm, r.Host))
		}
	} else {
		seen := viewOf(*vm, r.Host)
		at.VM = &seen
		if vm.State == banger.Running {
			at.Ports, at.Problem = p.ports(r.Context(), *vm, r.Host)
		}
	}
	p.show(w, r, http.StatusOK, at)
}

// portSuffix is the port by which the browser reached us, which may not be ours where
// another program passes it on.
func portSuffix(host string) string {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return ":" + port
	}
	return ""
}

func viewOf(vm banger.VM, host string) vmView {
	v := vmView{
		Name: vm.Spec.Name, URL: "http://" + pageOf(vm.Spec.Name) + portSuffix(host) + "/",
		State: string(vm.State), Image: vm.Spec.Image, Isolation: string(vm.Spec.Isolation),
	}
	if vm.State == banger.Running {
		v.Since = ago(time.Since(vm.Started))
	}
	return v
}

// ago is a time in its largest unit.
func ago(d time.Duration) string {
	for _, u := range []struct {
		is   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= u.is {
			return fmt.Sprintf("up %d %s", d/u.is, u.name)
		}
	}
	return "just started"
}

// ports asks a guest what listens in it. Of a port that several sockets have, one is shown.
func (p *Server) ports(ctx context.Context, vm banger.VM, host string) (list []portView, problem string) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	all, err := flow.Ports(ctx, func(ctx context.Context) (net.Conn, error) { return p.Look(ctx, vm.ID) })
	if err != nil {
		if guest.CodeOf(err) == guest.CodeInvalid {
			return nil, "Its agent is of an earlier banger, and doesn't tell. Restart the VM."
		}
		return nil, guest.Clean(err.Error())
	}
	for _, one := range all {
		if slices.ContainsFunc(list, func(p portView) bool { return p.Port == one.Port && p.Network == one.Network }) {
			continue
		}
		v := portView{Port: one.Port, Network: one.Network, Address: one.Address, Process: one.Process, User: one.User, PID: one.PID}
		if one.Network == "tcp" {
			v.Host = fmt.Sprintf("%d.%s.%s%s", one.Port, vm.Spec.Name, domain, portSuffix(host))
			v.URL = "http://" + v.Host + "/"
		}
		list = append(list, v)
	}
	return list, ""
}

// fail answers with what was seen and what to do: a page for a person, else two lines.
func (p *Server) fail(w http.ResponseWriter, r *http.Request, status int, found, do string) {
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		p.show(w, r, status, view{Fail: &failure{status, found, do}})
		return
	}
	guarded(w)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, "banger: "+found)
	if do != "" {
		_, _ = fmt.Fprintln(w, do)
	}
}

// show writes a page. The client has left if that fails.
func (p *Server) show(w http.ResponseWriter, r *http.Request, status int, at view) {
	at.Home = "http://" + domain + portSuffix(r.Host) + "/"
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, "page.html", at); err != nil {
		p.Log.Error("the proxy's page", "err", err)
		http.Error(w, "banger: the page can't be made", http.StatusInternalServerError)
		return
	}
	guarded(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes())
}

// guarded sets the heads of all that is ours.
func guarded(w http.ResponseWriter) {
	for key, value := range map[string]string{
		"Content-Security-Policy": security, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
	} {
		w.Header().Set(key, value)
	}
}
