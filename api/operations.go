package api

import (
	"context"
	"net/http"
	"net/url"

	"banger"
)

// making is the handlers of banger.Operations.
type making struct{ banger.Operations }

func (s making) begin(w http.ResponseWriter, r *http.Request) error {
	req, err := body[createRequest](w, r)
	if err != nil {
		return err
	}
	op, err := s.BeginCreate(r.Context(), req.Spec, req.Start)
	if err != nil {
		return err
	}
	return answer(w, http.StatusAccepted, op)
}

func (s making) list(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() ([]banger.Operation, error) {
		ops, err := s.Operations.Operations(r.Context())
		return list(ops), err
	})
}

func (s making) get(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() (banger.Operation, error) { return s.Operation(r.Context(), r.PathValue("id")) })
}

// follow answers with the operation's events from its first on, then with the
// operation. When the daemon ends, the answer breaks off: the next daemon knows
// what became of it.
func (s making) follow(w http.ResponseWriter, r *http.Request) error {
	return stream(w, func(p banger.Progress) (banger.Operation, error) {
		op, err := s.FollowOperation(r.Context(), r.PathValue("id"), p)
		if err != nil && r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		return op, err
	})
}

func (s making) cancel(w http.ResponseWriter, r *http.Request) error {
	if _, err := body[struct{}](w, r); err != nil {
		return err
	}
	return answered(w, func() (banger.Operation, error) { return s.CancelOperation(r.Context(), r.PathValue("id")) })
}

func operationPath(id string, action ...string) string {
	path := "/v1/operations/" + url.PathEscape(id)
	for _, a := range action {
		path += "/" + a
	}
	return path
}

// Operations is a Client's banger.Operations.
type Operations struct{ *Client }

var _ banger.Operations = Operations{}

// BeginCreate implements banger.Operations. It is made only once, as CreateVM is.
func (c Operations) BeginCreate(ctx context.Context, spec banger.Spec, start bool) (banger.Operation, error) {
	var op banger.Operation
	err := c.call(ctx, "POST", "/v1/operations", createRequest{spec, start}, &op, nil)
	return op, hintLost(err, "what it was making is undone when it starts again, or is complete: `banger ps` tells")
}

// Operation implements banger.Operations.
func (c Operations) Operation(ctx context.Context, id string) (banger.Operation, error) {
	var op banger.Operation
	err := c.callRepeated(ctx, "GET", operationPath(id), nil, &op, nil)
	return op, err
}

// Operations implements banger.Operations.
func (c Operations) Operations(ctx context.Context) ([]banger.Operation, error) {
	var ops []banger.Operation
	err := c.callRepeated(ctx, "GET", "/v1/operations", nil, &ops, nil)
	return ops, err
}

// FollowOperation implements banger.Operations. When the daemon goes away the
// next one says what became of it.
func (c Operations) FollowOperation(ctx context.Context, id string, p banger.Progress) (banger.Operation, error) {
	var op banger.Operation
	err := c.callRepeated(ctx, "GET", operationPath(id, "events"), nil, &op, p)
	return op, err
}

// CancelOperation implements banger.Operations.
func (c Operations) CancelOperation(ctx context.Context, id string) (banger.Operation, error) {
	var op banger.Operation
	err := c.callRepeated(ctx, "POST", operationPath(id, "cancel"), nil, &op, nil)
	return op, err
}
