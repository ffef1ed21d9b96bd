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
	ops     map[string]banger.Op // by VM id
	images  map[string]banger.Image
	kernels map[string]banger.Kernel

	past []commits // VMs and operations at the last durable commit, and after each one since
}

// commits are all VMs and operations of a moment.
type commits struct {
	vms map[string]banger.VM
	ops map[string]banger.Op
}

// NewStore returns an empty one.
func NewStore() *Store {
	return &Store{
		vms: map[string]banger.VM{}, ops: map[string]banger.Op{},
		images: map[string]banger.Image{}, kernels: map[string]banger.Kernel{},
		past: []commits{{}}, // nothing lasts yet
	}
}

// PowerCut loses the latest commits, as many as that but none that a durable one
// came after, and returns how many were lost. No daemon may live.
func (s *Store) PowerCut(most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.past) - 1
	lost := min(most, last)
	was := s.past[last-lost]
	s.vms, s.ops = maps.Clone(was.vms), maps.Clone(was.ops)
	if s.vms == nil {
		s.vms, s.ops = map[string]banger.VM{}, map[string]banger.Op{}
	}
	s.past = []commits{was}
	return lost
}

// committed remembers what a power cut may leave. mu is held.
func (s *Store) committed(durable bool) {
	if durable {
		s.past = nil
	}
	s.past = append(s.past, commits{maps.Clone(s.vms), maps.Clone(s.ops)})
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

// Ops returns the operations in flight, oldest first.
func (s *Store) Ops(ctx context.Context) ([]banger.Op, error) {
	list := values(s, s.ops, func(a, b banger.Op) int {
		return cmp.Or(a.Opened.Compare(b.Opened), strings.Compare(a.VM, b.VM))
	})
	for i := range list {
		list[i].Begun = slices.Clone(list[i].Begun)
	}
	return list, ctx.Err()
}

// ownVM returns a VM that shares nothing with vm.
func ownVM(vm banger.VM) banger.VM {
	if vm.Exit != nil {
		exit := *vm.Exit
		vm.Exit = &exit
	}
	return vm
}

// Commit records a VM and its operation; see banger.Store.
func (s *Store) Commit(_ context.Context, vm banger.VM, op *banger.Op, durable bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if vm.State == banger.Gone {
		delete(s.vms, vm.ID)
		delete(s.ops, vm.ID)
		s.committed(durable)
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
	delete(s.ops, vm.ID)
	if op != nil {
		o := *op
		o.Begun = slices.Clone(op.Begun)
		s.ops[vm.ID] = o
	}
	s.committed(durable)
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
		old.Name = old.ID
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
