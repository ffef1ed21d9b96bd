package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxModules bounds a tree; Debian's full kernels have about 4,500.
const maxModules = 20000

// Tree is all modules of one kernel and how they depend on one another.
type Tree struct {
	modules []*node // in the order of modules.order, then by path
	byName  map[string]*node
	builtin []string            // names of what is compiled into the kernel
	infos   []builtinAlias      // aliases of those
	isBuilt map[string]struct{} // builtin, as a set
}

type node struct {
	Module
	index int // place in Tree.modules; the priority of its entries in an index
	deps  []*node
	users int
	depth int // place in the topological order: a module comes before those it uses
}

type builtinAlias struct{ alias, module string }

// Read parses every .ko below the root of fsys, which is the content of
// /lib/modules/VERSION. The files modules.order, modules.builtin and
// modules.builtin.modinfo, which the kernel's build makes, are used when there.
func Read(fsys fs.FS) (*Tree, error) {
	t := &Tree{byName: map[string]*node{}, isBuilt: map[string]struct{}{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path.Ext(p) != ".ko" {
			return err
		}
		return t.add(fsys, p)
	})
	if err != nil {
		return nil, err
	}
	if err := t.sort(fsys); err != nil {
		return nil, err
	}
	if err := t.readBuiltin(fsys); err != nil {
		return nil, err
	}
	t.resolve()
	return t, t.order()
}

func (t *Tree) add(fsys fs.FS, file string) error {
	info, err := fs.Stat(fsys, file)
	if err != nil {
		return err
	}
	if info.Size() > MaxModule || len(t.modules) == maxModules {
		return fmt.Errorf("module %s: beyond the limit of %d bytes or %d modules", file, MaxModule, maxModules)
	}
	if err := checkField(file); err != nil || strings.ContainsAny(file, " :") {
		return fmt.Errorf("module %.80q: modules.dep can't hold this name", file)
	}
	data, err := fs.ReadFile(fsys, file)
	if err != nil {
		return err
	}
	m, err := Parse(file, data)
	if err != nil {
		return err
	}
	if other := t.byName[m.Name]; other != nil {
		return fmt.Errorf("module %s: %s has the same name", file, other.Path)
	}
	n := &node{Module: m}
	t.byName[m.Name] = n
	t.modules = append(t.modules, n)
	return nil
}

// sort puts the modules into link order. If several have the same alias, modprobe
// loads them in this order.
func (t *Tree) sort(fsys fs.FS) error {
	data, err := readOptional(fsys, "modules.order")
	if err != nil {
		return err
	}
	rank := map[string]int{}
	for line := range bytes.Lines(data) {
		rank[string(bytes.TrimSpace(line))] = len(rank) - len(data)
	}
	slices.SortStableFunc(t.modules, func(a, b *node) int { return rank[a.Path] - rank[b.Path] })
	for i, n := range t.modules {
		n.index = i
	}
	return nil
}

func (t *Tree) readBuiltin(fsys fs.FS) error {
	data, err := readOptional(fsys, "modules.builtin")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		name := Name(string(bytes.TrimSpace(line)))
		if err := checkField(name); err != nil {
			return fmt.Errorf("modules.builtin: %w", err)
		}
		t.builtin = append(t.builtin, name)
		t.isBuilt[name] = struct{}{}
	}
	// A sequence of "module.key=value", each with a NUL at its end.
	data, err = readOptional(fsys, "modules.builtin.modinfo")
	if err != nil {
		return err
	}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		module, key, _ := strings.Cut(key, ".")
		if key != "alias" {
			continue
		}
		if err := checkField(value); err != nil {
			return fmt.Errorf("modules.builtin.modinfo: %w", err)
		}
		t.infos = append(t.infos, builtinAlias{value, Name(module)})
	}
	return nil
}

func readOptional(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxModule {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, info.Size(), MaxModule)
	}
	return fs.ReadFile(fsys, name)
}

// resolve turns symbols into dependencies. A symbol that no module exports is the
// kernel's own.
func (t *Tree) resolve() {
	owner := map[string]*node{}
	for _, n := range t.modules {
		for _, s := range n.Exports {
			if owner[s] == nil {
				owner[s] = n
			}
		}
	}
	for _, n := range t.modules {
		for _, s := range n.Needs {
			if o := owner[s]; o != nil && o != n && !slices.Contains(n.deps, o) {
				n.deps = append(n.deps, o)
				o.users++
			}
		}
	}
}

// order sorts topologically (Kahn's algorithm, with a stack): every module
// comes before what it uses.
func (t *Tree) order() error {
	users := make([]int, len(t.modules))
	var ready []*node
	for i, n := range t.modules {
		if users[i] = n.users; n.users == 0 {
			ready = append(ready, n)
		}
	}
	done := 0
	for ; len(ready) > 0; done++ {
		n := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		n.depth = done
		for _, d := range n.deps {
			if users[d.index]--; users[d.index] == 0 {
				ready = append(ready, d)
			}
		}
	}
	if done == len(t.modules) {
		return nil
	}
	i := slices.IndexFunc(users, func(u int) bool { return u > 0 })
	return fmt.Errorf("module %s is part of a dependency cycle", t.modules[i].Path)
}

// all returns the modules that n needs, directly or not, in the reverse of the order in
// which they must be loaded.
func (n *node) all() []*node {
	var found []*node
	seen := map[*node]bool{n: true}
	for queue := []*node{n}; len(queue) > 0; queue = queue[1:] {
		for _, d := range queue[0].deps {
			if !seen[d] {
				seen[d] = true
				found, queue = append(found, d), append(queue, d)
			}
		}
	}
	slices.SortFunc(found, func(a, b *node) int { return a.depth - b.depth })
	return found
}

// Load returns the named modules and those they depend on, in the order to load them.
// It leaves out names that are built into the kernel. A name that is neither a module
// nor built in is an error.
func (t *Tree) Load(names ...string) ([]Module, error) {
	var list []Module
	seen := map[string]bool{}
	for _, name := range names {
		name = Name(name)
		n := t.byName[name]
		if n == nil {
			if _, ok := t.isBuilt[name]; ok {
				continue
			}
			return nil, fmt.Errorf("this kernel has no module %s", name)
		}
		need := n.all()
		slices.Reverse(need)
		for _, d := range append(need, n) {
			if !seen[d.Name] {
				seen[d.Name] = true
				list = append(list, d.Module)
			}
		}
	}
	return list, nil
}
