package api

import (
	"context"
	"errors"
	"net/url"

	"banger"
)

// Builds is the daemon's ImageBuilder, as seen through a Client.
type Builds struct{ *Client }

var _ banger.ImageBuilder = Builds{}

// Image implements banger.ImageBuilder.
func (c Builds) Image(ctx context.Context, ref string) (banger.Image, error) {
	var img banger.Image
	err := c.callRepeated(ctx, "GET", "/v1/images/"+url.PathEscape(ref), nil, &img, nil)
	return img, err
}

// BuildImage implements banger.ImageBuilder.
func (c Builds) BuildImage(ctx context.Context, r banger.Recipe, p banger.Progress) (banger.Image, error) {
	var img banger.Image
	const again = "the next try goes on with what was fetched"
	err := c.call(ctx, "POST", "/v1/images/build", r, &img, p)
	if e, ok := errors.AsType[*banger.Error](err); ok && ctx.Err() != nil {
		return img, e.WithHint(again)
	}
	return img, hintLost(err, again)
}
