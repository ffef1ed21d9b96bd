package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"banger"
	"banger/api/inguest"
	"banger/api/wire"
)

// vmHandlers answer for banger.VMs.
type vmHandlers struct {
	banger.VMs
	log *slog.Logger
}

func (s *Server) vmRoutes() []wire.Route {
	vms := vmHandlers{s.VMs(), s.Log}
	return append([]wire.Route{
		wire.List("VMs", "GET /v2/vms", wire.Owner, "Lists all VMs, oldest first.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.VM, error) {
				return vms.VMs.VMs(ctx)
			}),
		wire.Stream("CreateVM", "POST /v2/vms", wire.Owner, "Makes a VM. If the client leaves before the end, nothing of the VM remains.",
			func(ctx context.Context, _ *http.Request, in CreateVMRequest, p banger.Progress) (banger.VM, error) {
				return vms.CreateVM(ctx, in.Spec, in.Start, p)
			}),
		wire.Value("VM", "GET /v2/vms/{vm}", wire.Owner, "Gives one VM.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.VM, error) {
				return vms.VM(ctx, r.PathValue("vm"))
			}),
		wire.Value("SetVM", "PATCH /v2/vms/{vm}", wire.Owner, "Changes a VM. A running one has needs_restart afterwards: its guest keeps what it was started with.",
			func(ctx context.Context, r *http.Request, in banger.Change) (banger.VM, error) {
				return vms.SetVM(ctx, r.PathValue("vm"), in)
			}),
		wire.Value("DeleteVM", "DELETE /v2/vms/{vm}", wire.Owner, "Ends a VM in any state and removes all it held, its disk too.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				return wire.Nothing{}, vms.DeleteVM(ctx, r.PathValue("vm"))
			}),
		wire.Value("PruneVM", "POST /v2/vms/{vm}/prune", wire.Owner, "Deletes a VM if it is stopped, else it is a conflict.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				return wire.Nothing{}, vms.PruneVM(ctx, r.PathValue("vm"))
			}),
		wire.Stream("StartVM", "POST /v2/vms/{vm}/start", wire.Owner, "Starts a stopped VM and ends when its agent answers. Starting a running one changes nothing.",
			func(ctx context.Context, r *http.Request, in banger.StartOptions, p banger.Progress) (banger.VM, error) {
				return vms.StartVM(ctx, r.PathValue("vm"), in, p)
			}),
		wire.Value("StopVM", "POST /v2/vms/{vm}/stop", wire.Owner, "Shuts a guest down through its init, then kills what remains after the timeout. Stopping a stopped one changes nothing.", vms.stop),
		wire.Stream("RestartVM", "POST /v2/vms/{vm}/restart", wire.Owner, "Stops a VM and starts it again, as one operation. A stopped one is started.", vms.restart),
		wire.Value("KillVM", "POST /v2/vms/{vm}/kill", wire.Owner, "Sends a signal to a VM's hypervisor; the guest isn't asked. Answers when it has ended, if the signal is one that ends it.",
			func(ctx context.Context, r *http.Request, in KillVMRequest) (banger.VM, error) {
				return vms.KillVM(ctx, r.PathValue("vm"), cmp.Or(in.Signal, "KILL"))
			}),
		wire.Value("StatsVM", "GET /v2/vms/{vm}/stats", wire.Owner, "Says what a VM uses of its host now.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Stats, error) {
				return vms.StatsVM(ctx, r.PathValue("vm"))
			}),
		wire.Raw("Logs", "GET /v2/vms/{vm}/logs", wire.Owner, "Gives the console log, oldest kept byte first.", "", wire.BytesType, vms.logs),
		wire.Lines[wire.Nothing, wire.Nothing]("HoldVM", "GET /v2/vms/{vm}/hold", wire.Owner, "Keeps a VM that belongs to its client (spec.remove) alive for as long as this request is open. The answer begins once it is held.", "", vms.hold),
		wire.Upgrade("Dial", "GET /v2/vms/{vm}/channel", wire.Owner, "Opens a stream to the guest's agent: a WebSocket, or, for a client on this host that upgrades to banger-descriptor, a descriptor of it.", vms.channel),
	}, inguest.Routes(vms.VMs, s.Log)...)
}

func (s vmHandlers) stop(ctx context.Context, r *http.Request, in StopVMRequest) (banger.VM, error) {
	opt, err := in.options()
	if err != nil {
		return banger.VM{}, err
	}
	return s.StopVM(ctx, r.PathValue("vm"), opt)
}

func (s vmHandlers) restart(ctx context.Context, r *http.Request, in RestartVMRequest, p banger.Progress) (banger.VM, error) {
	opt, err := in.options()
	if err != nil {
		return banger.VM{}, err
	}
	opt.Cold = in.Cold
	return s.RestartVM(ctx, r.PathValue("vm"), opt, p)
}

func (r StopVMRequest) options() (banger.StopOptions, error) {
	timeout, err := wire.Timeout(r.TimeoutMS)
	return banger.StopOptions{Timeout: timeout, Force: r.Force}, err
}

func stopRequest(opt banger.StopOptions) StopVMRequest {
	return StopVMRequest{TimeoutMS: opt.Timeout.Milliseconds(), Force: opt.Force}
}

func (s vmHandlers) logs(w http.ResponseWriter, r *http.Request, in FollowQuery) error {
	rc, err := s.Logs(r.Context(), r.PathValue("vm"), in.Follow)
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	w.Header().Set("Content-Type", wire.BytesType) // a guest's bytes: anything
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // the console may be silent for long
	if _, err := io.Copy(flusher{w}, rc); err != nil && r.Context().Err() == nil {
		s.log.Warn("logs", "vm", r.PathValue("vm"), "err", err)
		panic(http.ErrAbortHandler) // break off, so that the client doesn't take half a log for the whole
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

func (s vmHandlers) hold(w http.ResponseWriter, r *http.Request, _ wire.Nothing) error {
	lines := wire.NewLines(w)
	err := s.HoldVM(r.Context(), r.PathValue("vm"), lines.Begin)
	if err == nil || !lines.Begun() {
		return err
	}
	lines.Write(wire.Line{Error: banger.AsError(err)})
	return nil
}

func vmPath(ref string, rest ...string) string {
	p := "/v2/vms/" + url.PathEscape(ref)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}

// CreateVM implements banger.VMService.
func (c vms) CreateVM(ctx context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.call(ctx, "POST", "/v2/vms", CreateVMRequest{spec, start}, &vm, p)
	return vm, hintLost(err, "the next daemon undoes what isn't complete: `banger ps` shows whether the VM was made")
}

// StartVM implements banger.VMService.
func (c vms) StartVM(ctx context.Context, ref string, opt banger.StartOptions, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "start"), opt, &vm, p)
	return vm, err
}

// StopVM implements banger.VMService.
func (c vms) StopVM(ctx context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "stop"), stopRequest(opt), &vm, nil)
	return vm, err
}

// DeleteVM implements banger.VMService.
func (c vms) DeleteVM(ctx context.Context, ref string) error {
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "DELETE", vmPath(ref), nil, nil, nil) })
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // the deletion was recorded, and the next daemon's recovery finished it
	}
	return err
}

// VM implements banger.VMService.
func (c vms) VM(ctx context.Context, ref string) (banger.VM, error) {
	return got[banger.VM](ctx, c.Client, vmPath(ref))
}

// VMs implements banger.VMService.
func (c vms) VMs(ctx context.Context) ([]banger.VM, error) {
	return listed[banger.VM](ctx, c.Client, "/v2/vms")
}

// Logs implements banger.VMService.
func (c vms) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	path := vmPath(ref, "logs")
	if follow {
		path += "?follow=true"
	}
	resp, err := send(ctx, c.http, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		defer func() { _ = resp.Body.Close() }()
		return nil, wire.ReadError(resp)
	}
	return resp.Body, nil
}

// HoldVM implements banger.Leases. When the daemon ends, it goes on with the next one.
func (c vms) HoldVM(ctx context.Context, ref string, held func()) error {
	for {
		resp, err := send(ctx, c.http, "GET", vmPath(ref, "hold"), nil)
		if err == nil {
			if held != nil && resp.StatusCode == http.StatusOK {
				held()
			}
			err = finish(ctx, resp, nil, nil)
		}
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, wire.ErrLost) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond): // a small part of the time a lease lasts
		}
	}
}
