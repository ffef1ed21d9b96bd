package debian

// For fuzzing: these take what a mirror sends, with no file around it.
var (
	DataTar    = dataTar
	FindKernel = findKernel
)

// Filename is where on the mirror the package lies.
func (p pkg) Filename() string { return p.filename }
