package api

import (
	"context"
	"net/http"
	"net/url"

	"banger"
)

// frozen are the handlers of banger.Templates.
type frozen struct{ banger.Templates }

func (s frozen) list(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() ([]banger.Template, error) {
		all, err := s.Templates.Templates(r.Context())
		return list(all), err
	})
}

func (s frozen) create(w http.ResponseWriter, r *http.Request) error {
	spec, err := body[banger.TemplateSpec](w, r)
	if err != nil {
		return err
	}
	return stream(w, func(p banger.Progress) (banger.Template, error) { return s.CreateTemplate(r.Context(), spec, p) })
}

func (s frozen) remove(w http.ResponseWriter, r *http.Request) error {
	return answered(w, func() (struct{}, error) {
		return struct{}{}, s.DeleteTemplate(r.Context(), r.PathValue("id"))
	})
}

// Templates is banger.Templates by a client.
type Templates struct{ *Client }

var _ banger.Templates = Templates{}

// Templates implements banger.Templates.
func (c Templates) Templates(ctx context.Context) ([]banger.Template, error) {
	var all []banger.Template
	err := c.callRepeated(ctx, "GET", "/v1/templates", nil, &all, nil)
	return all, err
}

// CreateTemplate implements banger.Templates.
func (c Templates) CreateTemplate(ctx context.Context, spec banger.TemplateSpec, p banger.Progress) (banger.Template, error) {
	var t banger.Template
	err := c.callRepeated(ctx, "POST", "/v1/templates", spec, &t, p)
	return t, err
}

// DeleteTemplate implements banger.Templates.
func (c Templates) DeleteTemplate(ctx context.Context, id string) error {
	repeated, err := repeat(ctx, func() error {
		return c.call(ctx, "DELETE", "/v1/templates/"+url.PathEscape(id), nil, &struct{}{}, nil)
	})
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // the first try deleted it
	}
	return err
}
