package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"banger"
	"banger/api/wire"
)

func (s *Server) systemRoutes() []wire.Route {
	system := s.System()
	return []wire.Route{
		eventsRoute(system),
		wire.List("Collect", "POST /v2/gc", wire.Owner, "Finds what lies on the host in banger's places and under its names, and removes what no VM owns.",
			func(ctx context.Context, _ *http.Request, in banger.CollectOptions) ([]banger.Found, error) {
				return system.Collect(ctx, in)
			}),
		wire.List("Space", "GET /v2/space", wire.Owner, "Says what banger's files take of the host, each thing once.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.Space, error) {
				return system.Space(ctx)
			}),
		wire.List("Missing", "GET /v2/missing", wire.Owner, "Lists what a VM needs and this host doesn't have yet, in the order in which it is to be made.",
			func(ctx context.Context, _ *http.Request, in MissingQuery) ([]banger.Missing, error) {
				return system.Missing(ctx, in.spec())
			}),
		wire.Value("Proxy", "GET /v2/proxy", wire.Owner, "Says where browsers reach what listens in VMs.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) (banger.Proxy, error) {
				return system.Proxy(ctx)
			}),
		wire.List("Prune", "POST /v2/prune", wire.Owner, "Removes what no VM uses and what can be made or fetched again.",
			func(ctx context.Context, _ *http.Request, in banger.PruneOptions) ([]banger.Pruned, error) {
				return system.Prune(ctx, in)
			}),
	}
}

// eventsRoute answers with one line an event. The answer begins at once, as the first
// event may come much later.
func eventsRoute(system banger.SystemService) wire.Route {
	return wire.Lines[FollowQuery, wire.Nothing]("Events", "GET /v2/events", wire.Owner, "Gives what happened to VMs, oldest kept first, and ends with an empty result.", "",
		func(w http.ResponseWriter, r *http.Request, in FollowQuery) error {
			lines := wire.NewLines(w)
			lines.Begin()
			err := system.Events(r.Context(), in.Follow, func(e banger.Event) { lines.Write(wire.Line{Event: &e}) })
			switch {
			case err != nil:
				lines.Write(wire.Line{Error: banger.AsError(err)})
			case r.Context().Err() == nil:
				lines.Write(wire.Line{Result: []byte("{}")})
			}
			return nil
		})
}

// Events implements banger.SystemService.
func (c system) Events(ctx context.Context, follow bool, each func(banger.Event)) error {
	path := "/v2/events"
	if follow {
		path += "?follow=true"
	}
	err := c.call(ctx, "GET", path, nil, nil, each)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Collect implements banger.SystemService.
func (c system) Collect(ctx context.Context, opt banger.CollectOptions) ([]banger.Found, error) {
	var found wire.Results[banger.Found]
	err := c.callRepeated(ctx, "POST", "/v2/gc", opt, &found, nil)
	return found.Results, err
}

// Space implements banger.SystemService.
func (c system) Space(ctx context.Context) ([]banger.Space, error) {
	return listed[banger.Space](ctx, c.Client, "/v2/space")
}

// Missing implements banger.SystemService.
func (c system) Missing(ctx context.Context, spec banger.Spec) ([]banger.Missing, error) {
	q := url.Values{}
	for key, value := range map[string]string{
		"image": spec.Image, "kernel": spec.Kernel, "isolation": string(spec.Isolation), "hypervisor": spec.Hypervisor,
		"vcpu": strconv.Itoa(spec.VCPU), "memory_mib": strconv.Itoa(spec.MemoryMiB), "net": string(spec.Net),
	} {
		if value != "" && value != "0" {
			q.Set(key, value)
		}
	}
	return listed[banger.Missing](ctx, c.Client, "/v2/missing?"+q.Encode())
}

// Prune implements banger.SystemService. It isn't repeated: the second answer would
// lack what the first call had removed.
func (c system) Prune(ctx context.Context, opt banger.PruneOptions) ([]banger.Pruned, error) {
	var pruned wire.Results[banger.Pruned]
	err := c.call(ctx, "POST", "/v2/prune", opt, &pruned, nil)
	return pruned.Results, hintLost(err, "some of it may be removed already: `banger system df` shows what is left")
}

// Proxy implements banger.SystemService.
func (c system) Proxy(ctx context.Context) (banger.Proxy, error) {
	return got[banger.Proxy](ctx, c.Client, "/v2/proxy")
}
