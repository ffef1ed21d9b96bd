package engine

import (
	"cmp"
	"crypto/sha256"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"banger"
)

// fill fills in defaults.
func (d Defaults) fill(s banger.Spec) banger.Spec {
	s.Hypervisor, s.DiskDriver = cmp.Or(s.Hypervisor, d.Hypervisor), cmp.Or(s.DiskDriver, d.Disk)
	s.Image, s.Kernel, s.Net = cmp.Or(s.Image, d.Image), cmp.Or(s.Kernel, d.Kernel), cmp.Or(s.Net, d.Net)
	s.VCPU, s.MemoryMiB, s.DiskMiB = cmp.Or(s.VCPU, d.VCPU), cmp.Or(s.MemoryMiB, d.MemoryMiB), cmp.Or(s.DiskMiB, d.DiskMiB)
	return s
}

func (h Host) validate(s banger.Spec) error {
	between := func(what string, n, lowest, highest int, flag string) error {
		if n >= lowest && n <= highest {
			return nil
		}
		return banger.Errorf(banger.CodeInvalid, "%s must be between %d and %d, not %d", what, lowest, highest, n).
			WithHint("set it with %s", flag)
	}
	if s.Name != "" && !label.MatchString(s.Name) {
		return banger.Errorf(banger.CodeInvalid, "%q can't be a VM's name", s.Name).
			WithHint("use 1 to 63 of a-z, 0-9 and -, with no - first or last")
	}
	if _, err := h.mode(s.Net); err != nil {
		return err
	}
	if s.Isolation != "" && !slices.Contains(banger.Isolations(), s.Isolation) {
		return banger.Errorf(banger.CodeInvalid, "there is no isolation %.40q: there are hardware, process and emulated", s.Isolation)
	}
	if h.Hypervisors[s.Hypervisor] == nil {
		return banger.Errorf(banger.CodeInvalid, "there is no hypervisor %q on this host", s.Hypervisor)
	}
	if _, err := h.disk(banger.VM{Spec: s}); err != nil {
		return err
	}
	if w := s.Workspace; w != "" && (!strings.HasPrefix(w, "/") || len(w) > 4096 || strings.ContainsRune(w, 0)) {
		return banger.Errorf(banger.CodeInvalid, "workspace %q isn't an absolute path of at most 4096 bytes", w)
	}
	if err := checkLabels(s.Labels); err != nil {
		return err
	}
	return cmp.Or(
		between("the number of CPUs", s.VCPU, 1, banger.MaxVCPU, "--vcpu"),
		between("memory in MiB", s.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB, "--memory"),
		between("the disk's MiB per second", s.Limits.DiskMiB, 0, banger.MaxLimit, "--disk-rate"),
		between("the disk's requests per second", s.Limits.DiskOps, 0, banger.MaxLimit, "--disk-ops"),
		between("the network's MiB per second", s.Limits.NetMiB, 0, banger.MaxLimit, "--net-rate"),
		between("the time to live in ms", int(s.TTLMS), 0, banger.MaxTTLMS, "--ttl"),
		between("the time without use in ms", int(s.IdleStopMS), 0, banger.MaxTTLMS, "--idle-stop"),
		between("disk size in MiB", s.DiskMiB, banger.MinDiskMiB, banger.MaxDiskMiB, "--disk-size"),
	)
}

// maxLabels bounds the labels of a VM, and maxLabel what one may say.
const maxLabels, maxLabel = 64, 255

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return banger.Errorf(banger.CodeInvalid, "%d labels are too many: a VM can have %d", len(labels), maxLabels)
	}
	for key, value := range labels {
		if !labelKey.MatchString(key) {
			return banger.Errorf(banger.CodeInvalid, "%q can't be the key of a label", key).WithHint("use 1 to 63 of a-z, 0-9, -, _, . and /, with a letter or digit first")
		}
		if len(value) > maxLabel || strings.ContainsFunc(value, unicode.IsControl) {
			return banger.Errorf(banger.CodeInvalid, "the label %s has a value that isn't one line of at most %d bytes", key, maxLabel)
		}
	}
	return nil
}

var labelKey = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,62}$`)

// label is a DNS label (RFC 1123 section 2.1) in lower case. Other names are refused, not
// changed.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// room returns an error if the host hasn't enough free memory for a guest: the host's OOM
// killer might end processes of others.
func (h Host) room(s banger.Spec) error {
	if h.MemoryMiB == nil {
		return nil
	}
	if free := h.MemoryMiB(); free > 0 && s.MemoryMiB > free {
		return banger.Errorf(banger.CodeUnavailable, "the VM wants %d MiB of memory, the host has %d MiB available", s.MemoryMiB, free).
			WithHint("ask for less with --memory, or stop another VM")
	}
	return nil
}

// nameFor makes a name of two words from an id. The same id and try give the same name.
// Tries after the first few add a number.
func nameFor(id string, try int) string {
	sum := sha256.Sum256([]byte(id + strconv.Itoa(try)))
	name := adjectives[int(sum[0])%len(adjectives)] + "-" + nouns[int(sum[1])%len(nouns)]
	if try >= 8 {
		name += "-" + strconv.Itoa(int(sum[2])<<8|int(sum[3]))
	}
	return name
}

var adjectives = strings.Fields(`able airy amber apt arctic ashen avid azure bold brave brief bright brisk calm
	candid civil clear clever coral crisp dapper deft dusky eager early easy even fair fleet fond frank fresh gentle
	glad golden grand green happy hardy hazel humble ivory jolly keen kind lively lucid lucky mellow merry mild misty
	modest mossy neat nimble noble olive patient plain proud quick quiet rapid ready rosy royal ruby rustic sage sandy
	silent silver simple sleek snowy solar spry steady sturdy subtle sunny swift tawny tender tidy vivid warm wise witty`)

var nouns = strings.Fields(`acorn alder anchor apple arrow aspen badger barley basil beacon bear beaver beech birch
	bison brook cedar cherry clover comet condor cove crane creek cricket daisy deer delta dove eagle elk elm ember
	falcon fern finch fjord flint fox gale garnet gecko geyser glade grove gull harbor hare hawk hazel heron hill ibis
	iris jay juniper kestrel lake lark laurel lemon lily linden lion llama lotus lynx magpie maple marten meadow mesa
	mole moose moss newt oak orca otter owl panda pearl pine plum pony poppy quail raven reed robin rook rowan sable
	salmon seal sorrel spruce stork swan tern thistle thrush tiger trout tulip vale walnut whale willow wolf wren yak`)
