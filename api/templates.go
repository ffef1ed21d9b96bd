package api

import (
	"context"
	"net/http"
	"net/url"

	"banger"
	"banger/api/wire"
)

func (s *Server) templateRoutes() []wire.Route {
	templates := s.Templates()
	return []wire.Route{
		wire.List("Templates", "GET /v2/templates", wire.Owner, "Lists all templates, the last used first.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.Template, error) {
				return templates.Templates(ctx)
			}),
		wire.Stream("CreateTemplate", "POST /v2/templates", wire.Owner, "Makes the template of a kind, or gives the one there is; one of an image is made anew.",
			func(ctx context.Context, _ *http.Request, in banger.TemplateSpec, p banger.Progress) (banger.Template, error) {
				return templates.CreateTemplate(ctx, in, p)
			}),
		wire.Value("Template", "GET /v2/templates/{template}", wire.Owner, "Gives one template.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Template, error) {
				return templates.Template(ctx, r.PathValue("template"))
			}),
		wire.Value("DeleteTemplate", "DELETE /v2/templates/{template}", wire.Owner, "Removes a template. VMs that were started from it run on.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				return wire.Nothing{}, templates.DeleteTemplate(ctx, r.PathValue("template"))
			}),
	}
}

// Templates implements banger.TemplateService.
func (c templates) Templates(ctx context.Context) ([]banger.Template, error) {
	return listed[banger.Template](ctx, c.Client, "/v2/templates")
}

// Template implements banger.TemplateService.
func (c templates) Template(ctx context.Context, ref string) (banger.Template, error) {
	return got[banger.Template](ctx, c.Client, "/v2/templates/"+url.PathEscape(ref))
}

// CreateTemplate implements banger.TemplateService.
func (c templates) CreateTemplate(ctx context.Context, spec banger.TemplateSpec, p banger.Progress) (banger.Template, error) {
	var t banger.Template
	err := c.callRepeated(ctx, "POST", "/v2/templates", spec, &t, p)
	return t, err
}

// DeleteTemplate implements banger.TemplateService.
func (c templates) DeleteTemplate(ctx context.Context, id string) error {
	repeated, err := repeat(ctx, func() error {
		return c.call(ctx, "DELETE", "/v2/templates/"+url.PathEscape(id), nil, nil, nil)
	})
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // the first try deleted it
	}
	return err
}
