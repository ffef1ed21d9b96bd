package banger

// Services is all that a daemon offers, a service for each noun. The daemon and the
// API client both implement it, so the command line works with either. A ref is an
// id, a name, or the first digits of an id: at least 4, and enough to tell it from
// all others. Errors are *Error.
type Services interface {
	VMs() VMs
	Images() ImageService
	Kernels() KernelService
	Templates() TemplateService
	Operations() OperationService
	System() SystemService
}

// VMs is all that can be done with VMs.
type VMs interface {
	VMService
	VMControl
	Leases
}

// Parts implements Services by its fields. Only Operation may be nil: then the server
// offers no operations.
type Parts struct {
	VM        VMs
	Image     ImageService
	Kernel    KernelService
	Template  TemplateService
	Operation OperationService
	Whole     SystemService
}

// VMs implements Services.
func (p Parts) VMs() VMs { return p.VM }

// Images implements Services.
func (p Parts) Images() ImageService { return p.Image }

// Kernels implements Services.
func (p Parts) Kernels() KernelService { return p.Kernel }

// Templates implements Services.
func (p Parts) Templates() TemplateService { return p.Template }

// Operations implements Services.
func (p Parts) Operations() OperationService { return p.Operation }

// System implements Services.
func (p Parts) System() SystemService { return p.Whole }
