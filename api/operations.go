package api

import (
	"context"
	"net/http"
	"net/url"

	"banger"
	"banger/api/wire"
)

func (s *Server) operationRoutes() []wire.Route {
	ops := s.Operations()
	return []wire.Route{
		wire.List("Operations", "GET /v2/operations", wire.Owner, "Lists the operations that run, and of those that ended the latest; oldest first.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.Operation, error) {
				return ops.Operations(ctx)
			}),
		wire.Begun("BeginCreate", "POST /v2/operations", wire.Owner, "Makes a VM as CreateVM does, and goes on without the client.",
			func(ctx context.Context, _ *http.Request, in CreateVMRequest) (banger.Operation, error) {
				return ops.BeginCreate(ctx, in.Spec, in.Start)
			}),
		wire.Value("Operation", "GET /v2/operations/{operation}", wire.Owner, "Gives one operation.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Operation, error) {
				return ops.Operation(ctx, r.PathValue("operation"))
			}),
		wire.Stream("FollowOperation", "GET /v2/operations/{operation}/events", wire.Owner, "Gives the events of an operation from its first on, and the operation when it is over.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing, p banger.Progress) (banger.Operation, error) {
				op, err := ops.FollowOperation(ctx, r.PathValue("operation"), p)
				if err != nil && ctx.Err() != nil {
					panic(http.ErrAbortHandler) // the next daemon knows what became of it
				}
				return op, err
			}),
		wire.Value("CancelOperation", "POST /v2/operations/{operation}/cancel", wire.Owner, "Gives an operation up, and answers once nothing of its VM remains. It is a conflict when the VM was made.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Operation, error) {
				return ops.CancelOperation(ctx, r.PathValue("operation"))
			}),
	}
}

func operationPath(id string, action ...string) string {
	path := "/v2/operations/" + url.PathEscape(id)
	for _, a := range action {
		path += "/" + a
	}
	return path
}

// BeginCreate implements banger.OperationService. It isn't repeated, as CreateVM isn't.
func (c operations) BeginCreate(ctx context.Context, spec banger.Spec, start bool) (banger.Operation, error) {
	var op banger.Operation
	err := c.call(ctx, "POST", "/v2/operations", CreateVMRequest{spec, start}, &op, nil)
	return op, hintLost(err, "the next daemon undoes what isn't complete: `banger ps` shows whether the VM was made")
}

// Operation implements banger.OperationService.
func (c operations) Operation(ctx context.Context, id string) (banger.Operation, error) {
	return got[banger.Operation](ctx, c.Client, operationPath(id))
}

// Operations implements banger.OperationService.
func (c operations) Operations(ctx context.Context) ([]banger.Operation, error) {
	return listed[banger.Operation](ctx, c.Client, "/v2/operations")
}

// FollowOperation implements banger.OperationService. When the daemon goes away, the
// next one is asked how the operation ended.
func (c operations) FollowOperation(ctx context.Context, id string, p banger.Progress) (banger.Operation, error) {
	var op banger.Operation
	err := c.callRepeated(ctx, "GET", operationPath(id, "events"), nil, &op, p)
	return op, err
}

// CancelOperation implements banger.OperationService.
func (c operations) CancelOperation(ctx context.Context, id string) (banger.Operation, error) {
	var op banger.Operation
	err := c.callRepeated(ctx, "POST", operationPath(id, "cancel"), nil, &op, nil)
	return op, err
}
