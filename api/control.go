package api

import (
	"context"
	"net/http"

	"banger"
)

// control and whole are the handlers of the two services.
type (
	control struct{ banger.VMControl }
	whole   struct{ banger.System }
)

// killRequest is the body of POST /v1/vms/{ref}/kill.
type killRequest struct {
	Signal string `json:"signal"` // empty: KILL
}

func (s control) killVM(w http.ResponseWriter, r *http.Request) error {
	req, err := body[killRequest](w, r)
	if err != nil {
		return err
	}
	if req.Signal == "" {
		req.Signal = "KILL"
	}
	return answered(w, func() (banger.VM, error) { return s.KillVM(r.Context(), r.PathValue("ref"), req.Signal) })
}

func (s control) restartVM(w http.ResponseWriter, r *http.Request) error {
	opt, err := body[banger.StopOptions](w, r)
	if err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.VM, error) {
		return s.RestartVM(r.Context(), r.PathValue("ref"), opt, p)
	})
}

func (s control) bootVM(w http.ResponseWriter, r *http.Request) error {
	if _, err := body[struct{}](w, r); err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.VM, error) { return s.BootVM(r.Context(), r.PathValue("ref"), p) })
}

func (s control) setVM(w http.ResponseWriter, r *http.Request) error {
	change, err := body[banger.Change](w, r)
	if err != nil {
		return err
	}
	return answered(w, func() (banger.VM, error) { return s.SetVM(r.Context(), r.PathValue("ref"), change) })
}

func (s control) pruneVM(w http.ResponseWriter, r *http.Request) error {
	if _, err := body[struct{}](w, r); err != nil {
		return err
	}
	return answered(w, func() (struct{}, error) { return struct{}{}, s.PruneVM(r.Context(), r.PathValue("ref")) })
}

func (s control) statsVM(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() (banger.Stats, error) { return s.StatsVM(r.Context(), r.PathValue("ref")) })
}

func (s whole) collect(w http.ResponseWriter, r *http.Request) error {
	opt, err := body[banger.CollectOptions](w, r)
	if err != nil {
		return err
	}
	return answered(w, func() ([]banger.Found, error) {
		found, err := s.Collect(r.Context(), opt)
		return list(found), err
	})
}

func (s whole) space(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() ([]banger.Space, error) {
		used, err := s.Space(r.Context())
		return list(used), err
	})
}

func (s whole) prune(w http.ResponseWriter, r *http.Request) error {
	opt, err := body[banger.PruneOptions](w, r)
	if err != nil {
		return err
	}
	return answered(w, func() ([]banger.Pruned, error) {
		pruned, err := s.Prune(r.Context(), opt)
		return list(pruned), err
	})
}

// events answers with one line an event. The answer begins before the first: it
// may be long in coming.
func (s whole) events(w http.ResponseWriter, r *http.Request) error {
	lines := &lineWriter{w: w}
	lines.begin()
	_ = http.NewResponseController(w).Flush()
	err := s.Events(r.Context(), r.URL.Query().Get("follow") == "true", func(e banger.Event) { lines.write(line{Event: &e}) })
	switch {
	case err != nil:
		lines.write(line{Error: banger.AsError(err)})
	case r.Context().Err() == nil:
		lines.write(line{Result: []byte("{}")})
	}
	return nil
}

// answered answers with what do returns.
func answered[T any](w http.ResponseWriter, do func() (T, error)) error {
	v, err := do()
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, v)
}

// KillVM implements banger.VMControl.
func (c *Client) KillVM(ctx context.Context, ref, signal string) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "kill"), killRequest{signal}, &vm, nil)
	return vm, err
}

// RestartVM implements banger.VMControl. It is made only once: a daemon that goes
// away has the next one finish it, and a second restart is not what was asked for.
func (c *Client) RestartVM(ctx context.Context, ref string, opt banger.StopOptions, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.call(ctx, "POST", vmPath(ref, "restart"), opt, &vm, p)
	return vm, hintLost(err, "the next daemon finishes what it began: `banger ps` tells")
}

// Control is banger.VMControl by a client.
type Control struct{ *Client }

// BootVM implements banger.VMControl.
func (c Control) BootVM(ctx context.Context, ref string, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.call(ctx, "POST", vmPath(ref, "boot"), nil, &vm, p)
	return vm, err
}

// SetVM implements banger.VMControl.
func (c *Client) SetVM(ctx context.Context, ref string, change banger.Change) (banger.VM, error) {
	var vm banger.VM
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "PATCH", vmPath(ref), change, &vm, nil) })
	if repeated && change.Name != "" && banger.CodeOf(err) == banger.CodeNotFound {
		return c.VM(ctx, change.Name) // it was renamed before the daemon went away
	}
	return vm, err
}

// PruneVM implements banger.VMControl.
func (c *Client) PruneVM(ctx context.Context, ref string) error {
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "POST", vmPath(ref, "prune"), nil, &struct{}{}, nil) })
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // as in DeleteVM
	}
	return err
}

// StatsVM implements banger.VMControl.
func (c *Client) StatsVM(ctx context.Context, ref string) (banger.Stats, error) {
	var st banger.Stats
	err := c.callRepeated(ctx, "GET", vmPath(ref, "stats"), nil, &st, nil)
	return st, err
}

// System is banger.System by a client.
type System struct{ *Client }

// Events implements banger.System.
func (c System) Events(ctx context.Context, follow bool, each func(banger.Event)) error {
	path := "/v1/events"
	if follow {
		path += "?follow=true"
	}
	err := c.call(ctx, "GET", path, nil, &struct{}{}, each)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Collect implements banger.System.
func (c System) Collect(ctx context.Context, opt banger.CollectOptions) ([]banger.Found, error) {
	var found []banger.Found
	err := c.callRepeated(ctx, "POST", "/v1/gc", opt, &found, nil)
	return found, err
}

// Space implements banger.System.
func (c System) Space(ctx context.Context) ([]banger.Space, error) {
	var used []banger.Space
	err := c.callRepeated(ctx, "GET", "/v1/space", nil, &used, nil)
	return used, err
}

// Prune implements banger.System. It is asked once: a second answer would lack
// what the first had removed.
func (c System) Prune(ctx context.Context, opt banger.PruneOptions) ([]banger.Pruned, error) {
	var pruned []banger.Pruned
	err := c.call(ctx, "POST", "/v1/prune", opt, &pruned, nil)
	return pruned, hintLost(err, "what it had removed is gone: `banger system df` tells what is left")
}

var (
	_ banger.VMControl = Control{}
	_ banger.System    = System{}
)
