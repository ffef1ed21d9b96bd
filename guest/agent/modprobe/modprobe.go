// Package modprobe answers the kernel when it asks for a module, in a guest whose image has
// no modprobe(8) of its own: which modules a name or an alias means, and in what order they
// are loaded, by the tables that depmod(8) writes.
//
// It knows no settings of /etc/modprobe.d: an image that has some has kmod, too.
package modprobe

import (
	"bufio"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Name is how the program is called that the kernel starts.
const Name = "modprobe"

// Tables are what a kernel's directory of modules says.
type Tables struct {
	files map[string]string   // a module's name to its file below the directory
	needs map[string][]string // to the names of those that must be loaded before, the last one first
	soft  map[string][2][]string
	fsys  fs.FS
	built map[string]bool
}

// Read reads the tables of a directory such as /lib/modules/VERSION.
func Read(fsys fs.FS) (*Tables, error) {
	t := &Tables{files: map[string]string{}, needs: map[string][]string{}, soft: map[string][2][]string{}, built: map[string]bool{}, fsys: fsys}
	err := t.lines("modules.dep", func(line string) {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		name := nameOf(file)
		t.files[name] = file
		for _, n := range strings.Fields(needs) {
			t.needs[name] = append(t.needs[name], nameOf(n))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("the kernel's modules: %w", err)
	}
	// What follows may be missing.
	_ = t.lines("modules.builtin", func(line string) { t.built[nameOf(line)] = true })
	_ = t.lines("modules.softdep", func(line string) {
		var now *[]string
		var soft [2][]string
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			return
		}
		for _, word := range f[2:] {
			switch {
			case word == "pre:":
				now = &soft[0]
			case word == "post:":
				now = &soft[1]
			case now != nil:
				*now = append(*now, word)
			}
		}
		t.soft[plain(f[1])] = soft
	})
	return t, nil
}

func (t *Tables) lines(name string, do func(string)) error {
	f, err := t.fsys.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		do(s.Text())
	}
	return s.Err()
}

// nameOf is the name of the module in a file.
func nameOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return plain(name)
}

// plain is a module's name as the kernel has it.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Load returns the files of the modules that a name or an alias means, in the order in which
// they are loaded. It is empty for what is built in. It is an error when there is no such
// module.
func (t *Tables) Load(name string) ([]string, error) {
	var list []string
	found := t.add(&list, plain(name), map[string]bool{})
	if !found {
		for _, m := range t.aliased(name) {
			found = t.add(&list, m, map[string]bool{}) || found
		}
	}
	if !found && !t.built[plain(name)] && !t.builtAlias(name) {
		return nil, fmt.Errorf("there is no module %.100q", name)
	}
	return list, nil
}

// add appends a module's files, after those that it needs, and reports whether there is one.
func (t *Tables) add(list *[]string, name string, on map[string]bool) bool {
	file, ok := t.files[name]
	if !ok || on[name] {
		return ok
	}
	on[name] = true
	soft := t.soft[name]
	for _, s := range soft[0] {
		t.any(list, s, on)
	}
	for _, n := range slices.Backward(t.needs[name]) {
		t.add(list, n, on)
	}
	if !slices.Contains(*list, file) {
		*list = append(*list, file)
	}
	for _, s := range soft[1] {
		t.any(list, s, on)
	}
	return true
}

// any is add of a name or an alias, which may be missing.
func (t *Tables) any(list *[]string, name string, on map[string]bool) {
	if t.add(list, plain(name), on) {
		return
	}
	for _, m := range t.aliased(name) {
		t.add(list, m, on)
	}
}

// aliased returns the modules that have an alias. The table is read each time, as most
// names need only the other one.
func (t *Tables) aliased(name string) (list []string) {
	_ = t.lines("modules.alias", func(line string) {
		rest, ok := strings.CutPrefix(line, "alias ")
		if !ok {
			return
		}
		at := strings.LastIndexByte(rest, ' ')
		if at > 0 && matches(rest[:at], name) && !slices.Contains(list, plain(rest[at+1:])) {
			list = append(list, plain(rest[at+1:]))
		}
	})
	return list
}

// builtAlias reports whether an alias is of a module that is built in.
func (t *Tables) builtAlias(name string) bool {
	data, err := fs.ReadFile(t.fsys, "modules.builtin.modinfo")
	if err != nil {
		return false
	}
	for entry := range strings.SplitSeq(string(data), "\x00") {
		_, value, ok := strings.Cut(entry, ".alias=")
		if ok && matches(value, name) {
			return true
		}
	}
	return false
}

// matches compares an alias's pattern with a name. Both may have - for _, but within
// brackets.
func matches(pattern, name string) bool {
	wild := strings.IndexAny(pattern, "*?[")
	if wild < 0 {
		return plain(pattern) == plain(name)
	}
	if len(name) < wild || plain(pattern[:wild]) != plain(name[:wild]) {
		return false
	}
	// path.Match's * stops at slashes, which aliases have none of but as themselves.
	ok, err := path.Match(strings.ReplaceAll(pattern[wild:], "/", "\x01"), strings.ReplaceAll(name[wild:], "/", "\x01"))
	return err == nil && ok
}

// Node is a device node whose first use loads its module.
type Node struct {
	Path         string // below /dev
	Block        bool
	Major, Minor uint32
}

// Nodes returns the nodes that the kernel's modules ask for.
func Nodes(fsys fs.FS) (list []Node) {
	t := &Tables{fsys: fsys}
	_ = t.lines("modules.devname", func(line string) {
		var n Node
		var kind byte
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "#" || !fs.ValidPath(f[1]) {
			return
		}
		if _, err := fmt.Sscanf(f[2], "%c%d:%d", &kind, &n.Major, &n.Minor); err == nil {
			n.Path, n.Block = f[1], kind == 'b'
			list = append(list, n)
		}
	})
	return list
}

// Asked returns the names that a call of modprobe(8) asks for: the kernel's, which is
// "modprobe -q -- NAME", and those of iptables and Docker. It reports false for what isn't
// loading.
func Asked(args []string) (names []string, ok bool) {
	all := false
	for i, a := range args {
		switch {
		case a == "--":
			names = append(names, args[i+1:]...)
			return one(names, all), true
		case a == "-a" || a == "-va" || a == "--all":
			all = true
		case a == "-r" || a == "--remove" || a == "-c" || a == "--showconfig" || a == "-n" || a == "--dry-run" || a == "-D" || a == "--show-depends" || a == "-V" || a == "--version" || a == "-h" || a == "--help":
			return nil, false
		case strings.HasPrefix(a, "-"):
		default:
			names = append(names, a)
		}
	}
	return one(names, all), len(names) > 0
}

// one leaves out what follows a name that isn't one of several: its parameters.
func one(names []string, all bool) []string {
	if all || len(names) == 0 {
		return names
	}
	return names[:1]
}
