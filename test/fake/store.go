package fake

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"banger"
)

// Store is a banger.Store in memory. It outlives the daemons that use it, as a
// database file would; to make its writes steps of a daemon's life, wrap it by
// Life.Store.
type Store struct {
	mu      sync.Mutex
	vms     map[string]banger.VM
	plans   map[string]banger.Plan // by each subject
	images  map[string]banger.Image
	kernels map[string]banger.Kernel

	undo []before // of the commits that aren't durable yet, oldest first
}

// before is what was there before a commit, of all that it changed; nil: nothing.
type before struct {
	vms   map[string]*banger.VM
	plans map[string]*banger.Plan
}

// NewStore returns an empty one.
func NewStore() *Store {
	return &Store{
		vms: map[string]banger.VM{}, plans: map[string]banger.Plan{},
		images: map[string]banger.Image{}, kernels: map[string]banger.Kernel{},
	}
}

// PowerCut loses the latest commits, as many as that but none that a durable one
// came after, and returns how many were lost. No daemon may live.
func (s *Store) PowerCut(most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := min(most, len(s.undo))
	for _, was := range slices.Backward(s.undo[len(s.undo)-lost:]) {
		s.restore(was)
	}
	s.undo = nil
	return lost
}

// restore takes a commit back. mu is held.
func (s *Store) restore(was before) {
	putBack(s.vms, was.vms)
	putBack(s.plans, was.plans)
}

func putBack[T any](table map[string]T, was map[string]*T) {
	for key, v := range was {
		if delete(table, key); v != nil {
			table[key] = *v
		}
	}
}

// before notes what a commit may change. mu is held.
func (s *Store) before(vms []banger.VM, plan *banger.Plan) before {
	was := before{map[string]*banger.VM{}, map[string]*banger.Plan{}}
	note := func(subjects []string) {
		for _, id := range subjects {
			was.plans[id] = nil
			if p, ok := s.plans[id]; ok {
				was.plans[id] = &p
			}
		}
	}
	for _, vm := range vms {
		was.vms[vm.ID] = nil
		if old, ok := s.vms[vm.ID]; ok {
			was.vms[vm.ID] = &old
		}
		note(s.plans[vm.ID].Subjects)
	}
	if plan != nil {
		note(plan.Subjects)
	}
	return was
}

// values copies a table in an order.
func values[T any](s *Store, table map[string]T, order func(a, b T) int) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]T, 0, len(table))
	for _, v := range table {
		list = append(list, v)
	}
	slices.SortFunc(list, order)
	return list
}

// VMs returns all VMs, oldest first.
func (s *Store) VMs(ctx context.Context) ([]banger.VM, error) {
	list := values(s, s.vms, func(a, b banger.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	for i := range list {
		list[i] = ownVM(list[i])
	}
	return list, ctx.Err()
}

// Plans returns what is under way, oldest first.
func (s *Store) Plans(ctx context.Context) ([]banger.Plan, error) {
	list := values(s, s.plans, func(a, b banger.Plan) int {
		return cmp.Or(a.Opened.Compare(b.Opened), strings.Compare(a.ID, b.ID))
	})
	list = slices.CompactFunc(list, func(a, b banger.Plan) bool { return a.ID == b.ID })
	for i := range list {
		list[i] = ownPlan(list[i])
	}
	return list, ctx.Err()
}

// ownPlan returns a plan that shares nothing with p.
func ownPlan(p banger.Plan) banger.Plan {
	p.Subjects, p.Begun = slices.Clone(p.Subjects), slices.Clone(p.Begun)
	return p
}

// ownVM returns a VM that shares nothing with vm.
func ownVM(vm banger.VM) banger.VM {
	if vm.Exit != nil {
		exit := *vm.Exit
		vm.Exit = &exit
	}
	return vm
}

// Commit records VMs and their plan; see banger.Store.
func (s *Store) Commit(_ context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.before(vms, plan)
	for _, vm := range vms {
		if err := s.putVM(vm); err != nil {
			s.restore(was)
			return err
		}
	}
	if plan != nil {
		for _, vm := range plan.Subjects {
			s.plans[vm] = ownPlan(*plan)
		}
	}
	s.undo = append(s.undo, was)
	if durable {
		s.undo = nil
	}
	return nil
}

// putVM records a VM, or removes it, and ends the plan it had. mu is held.
func (s *Store) putVM(vm banger.VM) error {
	if old, planned := s.plans[vm.ID]; planned {
		maps.DeleteFunc(s.plans, func(_ string, p banger.Plan) bool { return p.ID == old.ID })
	}
	if vm.State == banger.Gone {
		delete(s.vms, vm.ID)
		return nil
	}
	if _, old := s.vms[vm.ID]; !old {
		if !s.hasImage(vm.ImageID) {
			return banger.Errorf(banger.CodeNotFound, "image %s isn't there any more", vm.ImageID)
		}
		if _, ok := s.kernels[vm.KernelID]; !ok {
			return banger.Errorf(banger.CodeNotFound, "kernel %s isn't there any more", vm.KernelID)
		}
	}
	for _, other := range s.vms {
		if vm.State != banger.Deleting && other.State != banger.Deleting && other.ID != vm.ID && other.Spec.Name == vm.Spec.Name {
			return banger.Errorf(banger.CodeConflict, "a VM named %q exists", vm.Spec.Name)
		}
	}
	s.vms[vm.ID] = ownVM(vm)
	return nil
}

func (s *Store) hasImage(id string) bool {
	for _, img := range s.images {
		if img.ID == id {
			return true
		}
	}
	return false
}

// Images returns all image names, by name.
func (s *Store) Images(ctx context.Context) ([]banger.Image, error) {
	return values(s, s.images, func(a, b banger.Image) int { return strings.Compare(a.Name, b.Name) }), ctx.Err()
}

// PutImage gives an image a name; see banger.Store.
func (s *Store) PutImage(_ context.Context, img banger.Image, replace bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.images[img.Name]
	if had && old.ID != img.ID && !replace {
		return banger.Errorf(banger.CodeConflict, "an image named %q exists", img.Name)
	}
	s.images[img.Name] = img
	if had && !s.hasImage(old.ID) && s.used(old.ID) {
		old.Name = banger.NameOfImage(old.ID, func(name string) bool {
			_, taken := s.images[name]
			return taken
		})
		s.images[old.Name] = old
	}
	return nil
}

func (s *Store) used(image string) bool {
	for _, vm := range s.vms {
		if vm.ImageID == image {
			return true
		}
	}
	return false
}

// DeleteImage removes a name; see banger.Store.
func (s *Store) DeleteImage(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, ok := s.images[name]
	if !ok {
		return banger.Errorf(banger.CodeNotFound, "no image %q", name)
	}
	delete(s.images, name)
	if s.used(img.ID) && !s.hasImage(img.ID) {
		s.images[name] = img
		return banger.Errorf(banger.CodeConflict, "image %q is in use", name)
	}
	return nil
}

// Kernels returns all kernels, oldest first.
func (s *Store) Kernels(ctx context.Context) ([]banger.Kernel, error) {
	return values(s, s.kernels, func(a, b banger.Kernel) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	}), ctx.Err()
}

// DeleteKernel forgets a kernel; see banger.Store.
func (s *Store) DeleteKernel(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kernels[id]; !ok {
		return banger.Errorf(banger.CodeNotFound, "no kernel %s", id)
	}
	for _, vm := range s.vms {
		if vm.KernelID == id {
			return banger.Errorf(banger.CodeConflict, "kernel %s is in use", id)
		}
	}
	delete(s.kernels, id)
	return nil
}

// PutKernel records a kernel; see banger.Store.
func (s *Store) PutKernel(_ context.Context, k banger.Kernel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kernels[k.ID] = k
	return nil
}
