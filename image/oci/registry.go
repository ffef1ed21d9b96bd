package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger"
	"banger/fetch"
)

// describing bounds the time in which a registry must say what an image is made of.
const describing = 2 * time.Minute

// Registries gets images from registries; it implements banger.Registries. Layers are kept
// in a directory, each under its digest, until nobody has used them for a week.
type Registries struct {
	Store  *Store
	Dir    string        // of layers; made when missing
	Client *http.Client  // nil: fetch.NewClient
	Stall  time.Duration // how long a registry may be silent in a layer; 0: 30 s
	// Mirrors are asked first, each "REGISTRY=MIRROR": "docker.io=mirror.example/hub". They
	// get no credentials.
	Mirrors []string
}

// Pull implements banger.Registries.
func (r *Registries) Pull(ctx context.Context, what banger.Pull, have func(id string) (banger.Image, bool), p banger.Progress) (banger.Image, error) {
	ref, want, err := parse(what)
	if err != nil {
		return banger.Image{}, err
	}
	for _, mirror := range r.mirrors(ref) {
		img, err := r.pull(ctx, &remoteImage{ref: mirror, insecure: what.Insecure}, want, banger.Credentials{}, have, p)
		if err == nil || ctx.Err() != nil {
			img.Name = familiar(ref)
			return img, err
		}
		say(p, banger.Event{Stage: banger.StageNote, Message: fmt.Sprintf("the mirror %s is passed over: %v", mirror.Context().RegistryStr(), err)})
	}
	img, err := r.pull(ctx, &remoteImage{ref: ref, insecure: what.Insecure}, want, what.Credentials, have, p)
	img.Name = familiar(ref)
	return img, err
}

// pull gets an image from one place.
func (r *Registries) pull(ctx context.Context, from *remoteImage, want v1.Platform, who banger.Credentials, have func(id string) (banger.Image, bool), p banger.Progress) (banger.Image, error) {
	say(p, banger.Event{Stage: "registry", Message: from.ref.Context().RegistryStr()})
	if err := from.open(ctx, r.client(), auth(who), transport.PullScope); err != nil {
		return banger.Image{}, from.explain(ctx, err)
	}
	m, err := from.describe(ctx, want)
	if err != nil {
		return banger.Image{}, from.explain(ctx, err)
	}
	img, there := have(m.id())
	if !there {
		if img, err = r.make(ctx, from, m, p); err != nil {
			return banger.Image{}, err
		}
	}
	return banger.Image{ID: img.ID, Size: img.Size, Entries: img.Entries, Config: m.config}, nil
}

// mirrors are the places where an image is looked for before its registry is asked.
func (r *Registries) mirrors(ref name.Reference) (list []name.Reference) {
	for _, m := range r.Mirrors {
		of, at, _ := strings.Cut(m, "=")
		if of != (&remoteImage{ref: ref}).host() {
			continue
		}
		image := at + "/" + ref.Context().RepositoryStr()
		if id := ref.Identifier(); strings.HasPrefix(id, "sha256:") {
			image += "@" + id
		} else {
			image += ":" + id
		}
		if found, err := name.ParseReference(image); err == nil {
			list = append(list, found)
		}
	}
	return list
}

func (r *Registries) client() *http.Client {
	if r.Client == nil {
		return fetch.NewClient()
	}
	return r.Client
}

func parse(what banger.Pull) (name.Reference, v1.Platform, error) {
	ref, err := name.ParseReference(what.Ref)
	if err != nil {
		return nil, v1.Platform{}, invalid("%q is no reference to an image of a registry: %w", what.Ref, err).
			WithHint("they look like alpine, ghcr.io/org/image:tag, localhost:5000/image, image@sha256:...")
	}
	if what.Platform == "" {
		return ref, native, nil
	}
	want, err := v1.ParsePlatform(what.Platform)
	if err != nil || want.OS != "linux" || want.Architecture != "amd64" && want.Architecture != "386" {
		return nil, v1.Platform{}, invalid("VMs of this host can't run images for %q", what.Platform).WithHint("they run linux/amd64 and linux/386")
	}
	return ref, *want, nil
}

// familiar is a reference as docker shows it: without its own registry, with a tag or a
// digest.
func familiar(ref name.Reference) string {
	repo := ref.Context().Name()
	repo = strings.TrimPrefix(strings.TrimPrefix(repo, name.DefaultRegistry+"/"), "library/")
	if _, ok := ref.(name.Digest); ok {
		return repo + "@" + ref.Identifier()
	}
	return repo + ":" + ref.Identifier()
}

func auth(c banger.Credentials) authn.Authenticator {
	if c == (banger.Credentials{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.User, Password: c.Password, IdentityToken: c.Token})
}

// remoteImage is an image of a registry.
type remoteImage struct {
	ref      name.Reference
	insecure bool
	puller   *remote.Puller
	how      []remote.Option
	client   *http.Client // for blobs: it has the registry's token
	base     string       // of blobs' addresses
}

func (i *remoteImage) open(ctx context.Context, client *http.Client, a authn.Authenticator, scope string) error {
	ctx, cancel := context.WithTimeout(ctx, describing)
	defer cancel()
	guarded := &guard{client.Transport, i.insecure, i.ref.Context().RegistryStr()}
	var how []name.Option
	if host, _, _ := strings.Cut(guarded.registry, ":"); i.insecure || isLoopback(host) {
		how = append(how, name.Insecure) // else it may still mean that, which the guard forbids
	}
	repo, err := name.NewRepository(i.ref.Context().Name(), how...)
	if err != nil {
		return err
	}
	if id := i.ref.Identifier(); strings.HasPrefix(id, "sha256:") {
		i.ref = repo.Digest(id)
	} else {
		i.ref = repo.Tag(id)
	}
	t, err := transport.NewWithContext(ctx, repo.Registry, a, guarded, []string{repo.Scope(scope)})
	if err != nil {
		return err
	}
	i.client = &http.Client{Transport: t, CheckRedirect: client.CheckRedirect}
	i.base = "https://" + repo.RegistryStr() + "/v2/" + repo.RepositoryStr() + "/blobs/"
	i.how = []remote.Option{remote.WithTransport(guarded), remote.WithAuth(a)}
	i.puller, err = remote.NewPuller(i.how...)
	return err
}

// describe gets the manifest and the config.
func (i *remoteImage) describe(ctx context.Context, want v1.Platform) (*image, error) {
	ctx, cancel := context.WithTimeout(ctx, describing)
	defer cancel()
	get := func(ref name.Reference) (*remote.Descriptor, error) { return i.puller.Get(ctx, ref) }
	top, err := get(i.ref)
	if err != nil {
		return nil, err
	}
	return choose(want, v1.Descriptor{Digest: top.Digest}, top.Manifest, source{
		func(d v1.Descriptor) ([]byte, error) {
			found, err := get(i.ref.Context().Digest(d.Digest.String()))
			if err != nil {
				return nil, err
			}
			return found.Manifest, nil
		},
		func(d v1.Descriptor) ([]byte, error) {
			return fetch.Fetcher{Client: i.client}.Get(ctx, i.base+d.Digest.String(), maxJSON)
		},
	})
}

// guard is a transport that asks without TLS only where that is allowed, isn't led into
// the host's own network by others, and bounds all answers but blobs.
type guard struct {
	http.RoundTripper
	insecure bool
	registry string
}

var (
	errPlain = errors.New("it has no TLS")
	errInner = errors.New("it leads to an address of this host's own network")
)

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	if req.URL.Scheme == "http" && !g.insecure && !isLoopback(host) {
		return nil, errPlain
	}
	if req.URL.Host != g.registry && isInner(host) {
		if own, _, _ := strings.Cut(g.registry, ":"); !isInner(own) {
			return nil, errInner
		}
	}
	resp, err := g.RoundTripper.RoundTrip(req)
	if err == nil && !strings.Contains(req.URL.Path, "/blobs/") && req.URL.Host == g.registry {
		resp.Body = bounded{io.LimitReader(resp.Body, maxJSON), resp.Body}
	}
	return resp, err
}

type bounded struct {
	io.Reader
	io.Closer
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func isInner(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

// explain makes an error for users.
func (i *remoteImage) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return banger.Errorf(banger.CodeCanceled, "asking %s: %w", i.host(), context.Cause(ctx))
	}
	if e, ok := errors.AsType[*banger.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return i.refused(e)
	}
	switch {
	case errors.Is(err, fetch.ErrMissing):
		return banger.Errorf(banger.CodeUnavailable, "%s doesn't have what the image's own manifest names", i.host()).WithHint("the registry is damaged: ask whoever keeps it")
	case errors.Is(err, errPlain):
		return banger.Errorf(banger.CodeForbidden, "%s would be asked without TLS, where anybody in between can send another image: %w", i.host(), err).
			WithHint("--insecure pulls without TLS, and trusts everybody between you and the registry")
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		return banger.Errorf(banger.CodeTimeout, "%s doesn't answer", i.host()).WithHint("check the network, and that this is the registry's name; `banger image list` shows the images that are here")
	}
	return banger.Errorf(banger.CodeUnavailable, "%s can't be asked: %w", i.host(), err).WithHint("check the network, and that this is the registry's name; `banger image list` shows the images that are here")
}

// refused explains what a registry answered.
func (i *remoteImage) refused(e *transport.Error) error {
	var said []string
	for _, d := range e.Errors {
		said = append(said, strings.TrimSpace(string(d.Code)+" "+d.Message))
	}
	why := fmt.Sprintf("%.200q", strings.Join(said, ", "))
	image := familiar(i.ref)
	switch e.StatusCode {
	case http.StatusNotFound:
		return banger.Errorf(banger.CodeNotFound, "%s has no image %q", i.host(), image).
			WithHint("check name and tag; `banger image list` shows the images that are here")
	case http.StatusUnauthorized, http.StatusForbidden:
		return banger.Errorf(banger.CodeForbidden, "%s refuses %q: there is no such image, or it needs a login (%s)", i.host(), image, why).
			WithHint("check the name; `docker login %s` keeps a login that banger uses; `banger image list` shows the images that are here", i.host())
	case http.StatusTooManyRequests:
		return banger.Errorf(banger.CodeUnavailable, "%s limits how many images you may pull (%s)", i.host(), why).
			WithHint("wait, or log in: `docker login %s` keeps a login that banger uses", i.host())
	}
	return banger.Errorf(banger.CodeUnavailable, "%s answered %d to a request for %q (%s)", i.host(), e.StatusCode, image, why).WithHint("try again later")
}

func (i *remoteImage) host() string {
	if h := i.ref.Context().RegistryStr(); h != name.DefaultRegistry {
		return h
	}
	return "docker.io"
}
