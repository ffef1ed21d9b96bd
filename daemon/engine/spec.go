package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"banger"
)

// reserve checks what is asked for, records the VM with its name, and returns
// the job of creating it. Nothing but the record exists after it.
func (e *Engine) reserve(ctx context.Context, op string, spec banger.Spec, p banger.Progress) (*job, error) {
	vm := banger.VM{ID: e.NewID(), Created: e.Now(), Spec: e.Defaults.fill(spec), MadeBy: op}
	if err := validate(e, vm.Spec); err != nil {
		return nil, err
	}
	if err := room(vm.Spec, e.HostMemoryMiB); err != nil {
		return nil, err
	}
	var err error
	if vm.ImageID, vm.KernelID, err = e.Catalog.Resolve(ctx, vm.Spec.Image, vm.Spec.Kernel, p); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j := &job{e: e, r: newRecord(vm), p: p, vm: vm}
	j.r.lock <- struct{}{}
	j.op = banger.Op{ID: op, VM: vm.ID, Kind: banger.OpCreate, Begun: slices.Clone(lasting), Opened: vm.Created}
	if err := j.vm.Advance(banger.Creating, ""); err != nil {
		return nil, err
	}
	if err := allocate(j); err != nil {
		return nil, err
	}
	defer recorded(j)
	err = j.name(ctx, spec.Name)
	if code := banger.CodeOf(err); err != nil && code != banger.CodeInternal {
		return nil, err // refused: nothing was written
	}
	if err != nil { // nobody knows what was written
		op := j.op
		e.mu.Lock()
		e.vms[vm.ID] = j.r
		j.r.vm, j.r.op = j.vm, &op
		e.mu.Unlock()
		defer j.close()
		return nil, j.fail(ctx, "record vm "+j.vm.Spec.Name, err)
	}
	return j, nil
}

// words describes a machine for a person.
func words(s banger.Spec) string {
	return fmt.Sprintf("%s on kernel %s, vcpu %d, memory %dM, disk %dM, network %s, %s",
		s.Image, s.Kernel, s.VCPU, s.MemoryMiB, s.DiskMiB, s.Net, s.Hypervisor)
}

// name records the VM, durably, under the name asked for, or under the first one
// made up that is free.
func (j *job) name(ctx context.Context, asked string) error {
	for try := 0; ; try++ {
		j.vm.Spec.Name = cmp.Or(asked, nameFor(j.vm.ID, try))
		err := j.commit(ctx, true)
		if asked != "" || banger.CodeOf(err) != banger.CodeConflict || try == 100 {
			return err
		}
	}
}

// fill completes what was left open.
func (d Defaults) fill(s banger.Spec) banger.Spec {
	s.Hypervisor, s.DiskDriver = cmp.Or(s.Hypervisor, d.Hypervisor), cmp.Or(s.DiskDriver, d.Disk)
	s.Image, s.Kernel, s.Net = cmp.Or(s.Image, d.Image), cmp.Or(s.Kernel, d.Kernel), cmp.Or(s.Net, d.Net)
	s.VCPU, s.MemoryMiB, s.DiskMiB = cmp.Or(s.VCPU, d.VCPU), cmp.Or(s.MemoryMiB, d.MemoryMiB), cmp.Or(s.DiskMiB, d.DiskMiB)
	return s
}

func validate(e *Engine, s banger.Spec) error {
	between := func(what string, n, lowest, highest int, flag string) error {
		if n >= lowest && n <= highest {
			return nil
		}
		return banger.Errorf(banger.CodeInvalid, "%s must be between %d and %d, not %d", what, lowest, highest, n).
			WithHint("set it with %s", flag)
	}
	if s.Name != "" && !isLabel(s.Name) {
		return banger.Errorf(banger.CodeInvalid, "%q can't be a VM's name", s.Name).
			WithHint("use 1 to 63 of a-z, 0-9 and -, with no - first or last")
	}
	if _, err := e.Host.mode(s.Net); err != nil {
		return err
	}
	if e.Hypervisors[s.Hypervisor] == nil {
		return banger.Errorf(banger.CodeInvalid, "there is no hypervisor %q on this host", s.Hypervisor)
	}
	if _, err := e.Host.disk(banger.VM{Spec: s}); err != nil {
		return err
	}
	if w := s.Workspace; w != "" && (!strings.HasPrefix(w, "/") || len(w) > 4096 || strings.ContainsRune(w, 0)) {
		return banger.Errorf(banger.CodeInvalid, "workspace %q isn't an absolute path of at most 4096 bytes", w)
	}
	for _, err := range []error{
		between("the number of CPUs", s.VCPU, 1, banger.MaxVCPU, "--vcpu"),
		between("memory in MiB", s.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB, "--memory"),
		between("the disk's MiB per second", s.Limits.DiskMiB, 0, banger.MaxLimit, "--disk-rate"),
		between("the disk's requests per second", s.Limits.DiskOps, 0, banger.MaxLimit, "--disk-ops"),
		between("the network's MiB per second", s.Limits.NetMiB, 0, banger.MaxLimit, "--net-rate"),
		between("disk size in MiB", s.DiskMiB, banger.MinDiskMiB, banger.MaxDiskMiB, "--disk-size"),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// isLabel reports whether a name is a DNS label (RFC 1123 section 2.1), in
// lower case: names aren't changed to fit, they are refused.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// room refuses a guest that the host's memory can't hold now: the host's OOM
// killer would choose somebody else's process to make room.
func room(s banger.Spec, have func() int) error {
	if have == nil {
		return nil
	}
	if free := have(); free > 0 && s.MemoryMiB > free {
		return banger.Errorf(banger.CodeUnavailable, "the VM wants %d MiB of memory, the host has %d MiB available", s.MemoryMiB, free).
			WithHint("ask for less with --memory, or stop another VM")
	}
	return nil
}

// nameFor makes a name of two words out of an id: the same id and try give the
// same name. Tries after the first few add a number.
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
