package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// MaxModule is the largest module file that is read, in bytes. The largest of
// Debian's is 15 MiB (i915).
const MaxModule = 64 << 20

// maxInfo bounds one .modinfo field, in bytes: no program expects a longer key or value
// in an index.
const maxInfo = 4096

// Module is what one module file says about itself.
type Module struct {
	Name     string   // as lsmod shows it: no suffix, '_' for '-'
	Path     string   // relative to /lib/modules/VERSION
	Aliases  []string // patterns by which it is found, in the file's order
	Softdeps []string // "pre: crc32c", as modprobe.d(5) has it
	Weakdeps []string // modules it may use, as modprobe.d(5) has it
	Exports  []string // symbols other modules may use
	Needs    []string // symbols of the kernel or other modules that it uses
}

// Name returns the name of the module in a file, with '_' for '-' as in the kernel.
func Name(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// Parse reads an uncompressed module. The file is not trusted.
func Parse(file string, data []byte) (Module, error) {
	m := Module{Name: Name(file), Path: file}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return m, fmt.Errorf("module %s: %w", file, err)
	}
	if f.Type != elf.ET_REL {
		return m, fmt.Errorf("module %s: ELF type %v, not a relocatable object", file, f.Type)
	}
	if err := m.readInfo(f); err != nil {
		return m, fmt.Errorf("module %s: %w", file, err)
	}
	if err := m.readSymbols(f); err != nil {
		return m, fmt.Errorf("module %s: %w", file, err)
	}
	return m, nil
}

func (m *Module) readInfo(f *elf.File) error {
	s := f.Section(".modinfo")
	if s == nil {
		return errors.New("no .modinfo section")
	}
	// A compressed section (SHF_COMPRESSED) would be decompressed without a bound.
	if s.Flags&elf.SHF_COMPRESSED != 0 {
		return errors.New("compressed .modinfo section")
	}
	data, err := s.Data()
	if err != nil {
		return fmt.Errorf(".modinfo: %w", err)
	}
	kinds := map[string]*[]string{"alias": &m.Aliases, "softdep": &m.Softdeps, "weakdep": &m.Weakdeps}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		kept := kinds[key]
		if !ok || kept == nil {
			continue // a field that isn't in the tables, or padding
		}
		if err := checkField(value); err != nil {
			return fmt.Errorf(".modinfo %s: %w", key, err)
		}
		*kept = append(*kept, value)
	}
	return nil
}

// checkField refuses what the text tables, a line an entry, can't hold, and characters
// of 8 bits, which the binary index can't.
func checkField(value string) error {
	if len(value) > maxInfo {
		return fmt.Errorf("%d bytes long, at most %d", len(value), maxInfo)
	}
	for _, c := range []byte(value) {
		if c == '\n' || c >= 0x80 {
			return fmt.Errorf("byte %#x in %.40q", c, value)
		}
	}
	return nil
}

// readSymbols reads exports and needs from the symbol table. A symbol __ksymtab_foo,
// local or weak, says that foo is exported (include/linux/export.h); what is undefined
// is needed.
func (m *Module) readSymbols(f *elf.File) error {
	symbols, err := f.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("symbols: %w", err)
	}
	for _, s := range symbols {
		switch name, exported := strings.CutPrefix(s.Name, "__ksymtab_"); {
		case s.Name == "" || checkField(s.Name) != nil:
		case exported && s.Section != elf.SHN_UNDEF:
			m.Exports = append(m.Exports, name)
		case s.Section == elf.SHN_UNDEF:
			m.Needs = append(m.Needs, s.Name)
		}
	}
	slices.Sort(m.Exports)
	return nil
}
