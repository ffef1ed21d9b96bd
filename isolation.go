package banger

// Isolation is what keeps a guest from its host.
type Isolation string

// The kinds. docs/isolation.md says what each rests on.
const (
	ByHardware  Isolation = "hardware" // the processor, by KVM
	ByEmulation Isolation = "emulated" // QEMU, which emulates a processor
	ByProcess   Isolation = "process"  // the guest's kernel is a process in a jail: User-mode Linux
)

// Isolations returns all kinds.
func Isolations() []Isolation { return []Isolation{ByHardware, ByEmulation, ByProcess} }
