package api

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"banger"
	"banger/api/wire"
)

func (s *Server) kernelRoutes() []wire.Route {
	kernels := s.Kernels()
	return []wire.Route{
		wire.List("Kernels", "GET /v2/kernels", wire.Owner, "Lists all kernels, oldest first.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.Kernel, error) {
				return kernels.Kernels(ctx)
			}),
		wire.Stream("PullKernel", "POST /v2/kernels", wire.Owner, "Fetches a kernel. One that is there is given as it is, unless it is to be updated.",
			func(ctx context.Context, _ *http.Request, in PullKernelRequest, p banger.Progress) (banger.Kernel, error) {
				return kernels.PullKernel(ctx, in.Name, in.Update, p)
			}),
		wire.Lines[ImportKernelQuery, banger.Kernel]("ImportKernel", "POST /v2/kernel-imports", wire.Owner, "Makes a kernel of a tar: of Debian packages, or of the files of a directory (boot/vmlinuz-VERSION or vmlinux, lib/modules/VERSION/...).", wire.TarType,
			func(w http.ResponseWriter, r *http.Request, in ImportKernelQuery) error {
				return wire.Uploaded(w, r, func() error {
					return wire.Progress(w, func(p banger.Progress) (banger.Kernel, error) {
						return kernels.ImportKernel(r.Context(), in.Name, in.Source, r.Body, p)
					})
				})
			}),
		wire.List("AvailableKernels", "GET /v2/kernel-offers", wire.Owner, "Lists the kernels that can be fetched, and what is known of them without asking the archive.",
			func(ctx context.Context, _ *http.Request, _ wire.Nothing) ([]banger.KernelOffer, error) {
				return kernels.AvailableKernels(ctx)
			}),
		wire.Value("Kernel", "GET /v2/kernels/{kernel}", wire.Owner, "Gives one kernel: of several with one name the last, which new VMs get.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (banger.Kernel, error) {
				return kernels.Kernel(ctx, r.PathValue("kernel"))
			}),
		wire.Value("DeleteKernel", "DELETE /v2/kernels/{kernel}", wire.Owner, "Deletes a kernel. It is a conflict while a VM uses it, and for a name that several have.",
			func(ctx context.Context, r *http.Request, _ wire.Nothing) (wire.Nothing, error) {
				return wire.Nothing{}, kernels.DeleteKernel(ctx, r.PathValue("kernel"))
			}),
	}
}

// PullKernel implements banger.KernelService.
func (c kernels) PullKernel(ctx context.Context, name string, update bool, p banger.Progress) (banger.Kernel, error) {
	var k banger.Kernel
	err := c.callRepeated(ctx, "POST", "/v2/kernels", PullKernelRequest{name, update}, &k, p)
	return k, err
}

// DeleteKernel implements banger.KernelService.
func (c kernels) DeleteKernel(ctx context.Context, ref string) error {
	return c.call(ctx, "DELETE", "/v2/kernels/"+url.PathEscape(ref), nil, nil, nil)
}

// Kernels implements banger.KernelService.
func (c kernels) Kernels(ctx context.Context) ([]banger.Kernel, error) {
	return listed[banger.Kernel](ctx, c.Client, "/v2/kernels")
}

// Kernel implements banger.KernelService.
func (c kernels) Kernel(ctx context.Context, ref string) (banger.Kernel, error) {
	return got[banger.Kernel](ctx, c.Client, "/v2/kernels/"+url.PathEscape(ref))
}

// ImportKernel implements banger.KernelService.
func (c kernels) ImportKernel(ctx context.Context, name, source string, tar io.Reader, p banger.Progress) (banger.Kernel, error) {
	var k banger.Kernel
	err := c.upload(ctx, "/v2/kernel-imports?"+url.Values{"name": {name}, "source": {source}}.Encode(), tar, &k, p)
	return k, err
}

// AvailableKernels implements banger.KernelService.
func (c kernels) AvailableKernels(ctx context.Context) ([]banger.KernelOffer, error) {
	return listed[banger.KernelOffer](ctx, c.Client, "/v2/kernel-offers")
}
