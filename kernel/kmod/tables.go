package kmod

import (
	"bytes"
	"fmt"
	"strings"
)

// Tables returns the files that depmod(8) would write into /lib/modules/VERSION, by
// name: the text tables for people and older tools, and the binary indexes for libkmod,
// which modprobe, udev and systemd use.
func (t *Tree) Tables() (map[string][]byte, error) {
	tables := map[string][]byte{
		"modules.dep":     t.depText(),
		"modules.alias":   t.aliasText(),
		"modules.symbols": t.symbolText(),
		"modules.softdep": t.hintText("softdep", "Soft dependencies", func(m Module) []string { return m.Softdeps }),
		"modules.weakdep": t.hintText("weakdep", "Weak dependencies", func(m Module) []string { return m.Weakdeps }),
		"modules.devname": t.devnameText(),
	}
	for name, entries := range map[string][]entry{
		"modules.dep.bin":           t.depEntries(),
		"modules.alias.bin":         t.aliasEntries(),
		"modules.symbols.bin":       t.symbolEntries(),
		"modules.builtin.bin":       t.builtinEntries(),
		"modules.builtin.alias.bin": t.builtinAliasEntries(),
	} {
		data, err := encodeIndex(entries)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		tables[name] = data
	}
	return tables, nil
}

// depLine is a line of modules.dep: a module and all it needs. The one to load first
// is the last.
func (n *node) depLine() string {
	var b strings.Builder
	b.WriteString(n.Path + ":")
	for _, d := range n.all() {
		b.WriteString(" " + d.Path)
	}
	return b.String()
}

func (t *Tree) depText() []byte {
	var b bytes.Buffer
	for _, n := range t.modules {
		b.WriteString(n.depLine() + "\n")
	}
	return b.Bytes()
}

func (t *Tree) depEntries() (list []entry) {
	for _, n := range t.modules {
		list = append(list, entry{n.Name, n.depLine(), n.index})
	}
	return list
}

func (t *Tree) aliasText() []byte {
	b := bytes.NewBufferString("# Aliases extracted from modules themselves.\n")
	for _, n := range t.modules {
		for _, a := range n.Aliases {
			fmt.Fprintf(b, "alias %s %s\n", a, n.Name)
		}
	}
	return b.Bytes()
}

func (t *Tree) aliasEntries() (list []entry) {
	for _, n := range t.modules {
		for _, a := range n.Aliases {
			list = append(list, entry{underscores(a), n.Name, n.index})
		}
	}
	return list
}

func (t *Tree) symbolText() []byte {
	b := bytes.NewBufferString("# Aliases for symbols, used by symbol_request().\n")
	for _, e := range t.symbolEntries() {
		fmt.Fprintf(b, "alias %s %s\n", e.key, e.value)
	}
	return b.Bytes()
}

func (t *Tree) symbolEntries() (list []entry) {
	for _, n := range t.modules {
		for _, s := range n.Exports {
			list = append(list, entry{"symbol:" + s, n.Name, n.index})
		}
	}
	return list
}

func (t *Tree) hintText(word, title string, of func(Module) []string) []byte {
	b := bytes.NewBufferString("# " + title + " extracted from modules themselves.\n")
	for _, n := range t.modules {
		for _, s := range of(n.Module) {
			fmt.Fprintf(b, "%s %s %s\n", word, n.Name, s)
		}
	}
	return b.Bytes()
}

// devnameText lists the device nodes that load a module when they are opened:
// systemd-tmpfiles and udev make them at boot.
func (t *Tree) devnameText() []byte {
	b := bytes.NewBufferString("# Device nodes to trigger on-demand module loading.\n")
	for _, n := range t.modules {
		var name, device string
		for _, a := range n.Aliases {
			var major, minor uint
			if rest, ok := strings.CutPrefix(a, "devname:"); ok {
				name = rest
			} else if c, _ := fmt.Sscanf(a, "char-major-%d-%d", &major, &minor); c == 2 {
				device = fmt.Sprintf("c%d:%d", major, minor)
			} else if c, _ := fmt.Sscanf(a, "block-major-%d-%d", &major, &minor); c == 2 {
				device = fmt.Sprintf("b%d:%d", major, minor)
			}
		}
		if name != "" && device != "" {
			fmt.Fprintf(b, "%s %s %s\n", n.Name, name, device)
		}
	}
	return b.Bytes()
}

func (t *Tree) builtinEntries() (list []entry) {
	for _, name := range t.builtin {
		list = append(list, entry{key: name})
	}
	return list
}

func (t *Tree) builtinAliasEntries() (list []entry) {
	for _, i := range t.infos {
		list = append(list, entry{key: underscores(i.alias), value: i.module})
	}
	return list
}

// underscores replaces '-' in an alias by '_', as lookups do. Within brackets '-' stays:
// there it means a range.
func underscores(alias string) string {
	b := []byte(alias)
	bracket := false
	for i, c := range b {
		switch c {
		case '[':
			bracket = true
		case ']':
			bracket = false
		case '-':
			if !bracket {
				b[i] = '_'
			}
		}
	}
	return string(b)
}
