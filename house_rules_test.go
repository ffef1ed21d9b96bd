package banger_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var writeMap = flag.Bool("write-map", false, "write the map of the rooms into ARCHITECTURE.md")

// house is a plan and the sources that are to obey it. Tests of the test plant
// examples in either.
type house struct {
	laws       []law
	drivers    []string
	exceptions map[arrow]string
	rooms      []room
	raised     map[string]raise
	given      map[string]string
	files      []source
}

type source struct {
	pkg, path string
	lines     int
	file      *ast.File
}

func theHouse(t *testing.T) house {
	return house{laws, drivers, exceptions, rooms, raised, given, sources(t, false)}
}

func TestHouse(t *testing.T) {
	h := theHouse(t)
	for _, check := range []func() []string{h.arrows, h.folders, h.sizes, h.dodges, h.comments} {
		for _, wrong := range check() {
			t.Error(wrong)
		}
	}
	packages, arrows, longest, largest := h.measure()
	t.Logf("%d packages, %d arrows, %.1f a package; longest function %s; largest package %s",
		packages, arrows, float64(arrows)/float64(packages), longest, largest)
	t.Logf("lines of declarations: engine %d, drivers %d",
		h.declared("daemon/engine", "daemon/engine/plan", "daemon/engine/fleet"),
		h.declared("vmm/qemu", "vmm/firecracker", "vmm/machine", "vmm/shim"))
}

// declared counts the lines of what packages declare, each with its comment: without
// imports and what is between.
func (h house) declared(packages ...string) (lines int) {
	for _, s := range h.files {
		if !slices.Contains(packages, s.pkg) {
			continue
		}
		for _, d := range s.file.Decls {
			start := d.Pos()
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc != nil {
					start = d.Doc.Pos()
				}
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
				if d.Doc != nil {
					start = d.Doc.Pos()
				}
			}
			lines += fset.Position(d.End()).Line - fset.Position(start).Line + 1
		}
	}
	return lines
}

// imports returns a file's imports of ours, "banger" for the root, and the others.
func (s source) imports() (ours, others []string) {
	for _, imp := range s.file.Imports {
		path, _ := strconv.Unquote(imp.Path.Value)
		if dep, ok := strings.CutPrefix(path, "banger/"); ok {
			ours = append(ours, dep)
		} else if path == "banger" {
			ours = append(ours, path)
		} else {
			others = append(others, path)
		}
	}
	return ours, others
}

// below reports whether a package is a folder, or lies in it.
func below(pkg, folder string) bool {
	return pkg == folder || strings.HasPrefix(pkg, folder+"/")
}

// side returns the law of a package's side: the one with the longest name.
func (h house) side(pkg string) *law {
	var best *law
	for i, l := range h.laws {
		if below(pkg, l.side) && (best == nil || len(l.side) > len(best.side)) {
			best = &h.laws[i]
		}
	}
	return best
}

// arrows returns what is wrong with the imports.
func (h house) arrows() (wrong []string) {
	edges := map[string]map[string]bool{}
	used := map[arrow]bool{}
	for _, s := range h.files {
		ours, others := s.imports()
		for _, dep := range ours {
			if edges[s.pkg] == nil {
				edges[s.pkg] = map[string]bool{}
			}
			edges[s.pkg][dep] = true
			if why := h.forbids(s.pkg, dep, used); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s: %s may not import %s: %s", s.path, s.pkg, dep, why))
			}
		}
		for _, path := range others {
			if rooms, limited := onlyHere[path]; limited && !slices.Contains(rooms, s.pkg) {
				wrong = append(wrong, fmt.Sprintf("%s: %s may not import %s", s.path, s.pkg, path))
			}
			if s.pkg == "banger" && !slices.Contains(rootMayUse, path) {
				wrong = append(wrong, fmt.Sprintf("%s: the root package may not import %s", s.path, path))
			}
		}
	}
	for a, reason := range h.exceptions {
		if reason == "" {
			wrong = append(wrong, fmt.Sprintf("the exception for %s -> %s has no reason", a.from, a.to))
		}
		if !used[a] {
			wrong = append(wrong, fmt.Sprintf("the exception for %s -> %s is used by nobody: take it out", a.from, a.to))
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(edges)) {
		if d := depth(edges, pkg, nil); d > maxChain && !below(pkg, "cmd") {
			wrong = append(wrong, fmt.Sprintf("%s stands on a chain of %d packages, at most %d", pkg, d, maxChain))
		}
	}
	return wrong
}

// forbids says why a package may not import another one, "" if it may, and
// notes the exceptions that let it.
func (h house) forbids(from, to string, used map[arrow]bool) string {
	for a := range h.exceptions {
		if below(from, a.from) && below(to, a.to) {
			used[a] = true
			return ""
		}
	}
	if slices.Contains(h.drivers, from) && slices.Contains(h.drivers, to) {
		return "drivers know nothing of each other"
	}
	l, target := h.side(from), h.side(to)
	switch {
	case l == nil || target == nil:
		return "no law knows one of them"
	case l.side == target.side && l.side != "cmd":
		return ""
	case slices.ContainsFunc(l.may, func(may string) bool {
		// A side within a side, as the agent is within guest, wants its own word.
		return may == "*" || below(to, may) && (target.side == may || below(may, target.side))
	}):
		return ""
	}
	return fmt.Sprintf("the law of %s allows %v", l.side, l.may)
}

// depth is the length of the longest chain of imports that pkg begins.
func depth(edges map[string]map[string]bool, pkg string, seen []string) int {
	if slices.Contains(seen, pkg) {
		return len(seen)
	}
	best := 0
	for dep := range edges[pkg] {
		best = max(best, 1+depth(edges, dep, append(seen, pkg)))
	}
	return best
}

// folders returns packages that nobody decided, and rooms without a package.
func (h house) folders() (wrong []string) {
	for _, s := range h.files {
		if !slices.ContainsFunc(h.rooms, func(r room) bool { return r.path == s.pkg }) {
			wrong = append(wrong, fmt.Sprintf("%s: package %s is no room of the plan: a new one is a decision", s.path, s.pkg))
		}
	}
	for _, r := range h.rooms {
		if !slices.ContainsFunc(h.files, func(s source) bool { return s.pkg == r.path }) {
			wrong = append(wrong, fmt.Sprintf("the plan has a room %s, the house has none", r.path))
		}
	}
	return wrong
}

// sizes returns what is over its budget, and budgets raised without a reason or a need.
func (h house) sizes() (wrong []string) {
	lines, methods := map[string]int{}, map[string]int{}
	for _, s := range h.files {
		lines[s.pkg] += s.lines
		if s.lines > maxFile {
			wrong = append(wrong, fmt.Sprintf("%s has %d lines, at most %d", s.path, s.lines, maxFile))
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if n := linesOf(d); n > maxFunc {
					wrong = append(wrong, fmt.Sprintf("%s: %s has %d lines, at most %d", s.path, d.Name.Name, n, maxFunc))
				}
				if d.Recv != nil {
					methods[s.pkg+"."+typeName(d.Recv.List[0].Type)]++
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok {
						wrong = append(wrong, typeSize(s, ts)...)
					}
				}
			}
		}
	}
	for pkg, n := range lines {
		r, isRaised := h.raised[pkg]
		switch most := max(maxPackage, r.lines); {
		case isRaised && r.reason == "":
			wrong = append(wrong, fmt.Sprintf("the budget of %s was raised without a reason", pkg))
		case isRaised && n <= maxPackage:
			wrong = append(wrong, fmt.Sprintf("the budget of %s was raised, and %d lines don't need it", pkg, n))
		case isRaised && r.lines == 0:
		case n > most:
			wrong = append(wrong, fmt.Sprintf("package %s has %d lines, at most %d", pkg, n, most))
		}
	}
	for typ, n := range methods {
		if n > maxMethods {
			wrong = append(wrong, fmt.Sprintf("%s has %d methods, at most %d", typ, n, maxMethods))
		}
	}
	return wrong
}

func typeSize(s source, ts *ast.TypeSpec) (wrong []string) {
	name := s.pkg + "." + ts.Name.Name
	switch typ := ts.Type.(type) {
	case *ast.InterfaceType:
		if n := typ.Methods.NumFields(); n > maxInterface {
			wrong = append(wrong, fmt.Sprintf("%s: interface %s has %d methods, at most %d", s.path, name, n, maxInterface))
		}
	case *ast.StructType:
		if n := typ.Fields.NumFields(); n > maxFields && !slices.Contains(plainData, name) {
			wrong = append(wrong, fmt.Sprintf("%s: struct %s has %d fields, at most %d", s.path, name, n, maxFields))
		}
	}
	return wrong
}

// dodges returns free functions that are methods of a full type in all but
// form: they take it as an argument. A generic one can't be a method.
func (h house) dodges() (wrong []string) {
	methods, used := map[string]int{}, map[string]bool{}
	each := func(visit func(source, *ast.FuncDecl)) {
		for _, s := range h.files {
			for _, d := range s.file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					visit(s, f)
				}
			}
		}
	}
	each(func(s source, f *ast.FuncDecl) {
		if f.Recv != nil {
			methods[s.pkg+"."+typeName(f.Recv.List[0].Type)]++
		}
	})
	each(func(s source, f *ast.FuncDecl) {
		if f.Recv != nil || f.Type.TypeParams != nil {
			return
		}
		for _, p := range f.Type.Params.List {
			name := s.pkg + "." + typeName(p.Type)
			if methods[name] < fullType {
				continue
			}
			if used[name] = true; h.given[name] == "" {
				wrong = append(wrong, fmt.Sprintf("%s: %s takes a %s, which has %d methods: split the type by who changes it", s.path, f.Name.Name, name, methods[name]))
			}
		}
	})
	for name := range h.given {
		if !used[name] {
			wrong = append(wrong, fmt.Sprintf("no function takes a %s that may: take it out of given", name))
		}
	}
	return wrong
}

// comments returns exported names without a comment and packages without a doc.
func (h house) comments() (wrong []string) {
	docs := map[string]string{}
	for _, s := range h.files {
		docs[s.pkg] += s.file.Doc.Text()
		if below(s.pkg, "cmd") {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(typeName(d.Recv.List[0].Type))) {
					wrong = append(wrong, fmt.Sprintf("%s: exported %s has no comment", s.path, d.Name.Name))
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
						wrong = append(wrong, fmt.Sprintf("%s: exported %s has no comment", s.path, ts.Name.Name))
					}
				}
			}
		}
	}
	for pkg, doc := range docs {
		if len(doc) < 80 {
			wrong = append(wrong, fmt.Sprintf("package %s has no doc comment that says what it owns and what it knows nothing of", pkg))
		}
	}
	return wrong
}

// measure returns figures of the house for docs/lab/house.md.
func (h house) measure() (packages, arrows int, longest, largest string) {
	lines, edges := map[string]int{}, map[arrow]bool{}
	most := 0
	for _, s := range h.files {
		lines[s.pkg] += s.lines
		ours, _ := s.imports()
		for _, dep := range ours {
			edges[arrow{s.pkg, dep}] = true
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && linesOf(f) > most {
				most = linesOf(f)
				longest = fmt.Sprintf("%s.%s, %d lines", s.pkg, f.Name.Name, most)
			}
		}
	}
	most = 0
	for _, pkg := range slices.Sorted(maps.Keys(lines)) {
		if lines[pkg] > most {
			most = lines[pkg]
			largest = fmt.Sprintf("%s, %d lines", pkg, most)
		}
	}
	return len(lines), len(edges), longest, largest
}

func linesOf(f *ast.FuncDecl) int {
	return fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
}

// typeName returns the name in a receiver's or a parameter's type.
func typeName(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return "?"
		}
	}
}

// ARCHITECTURE.md's map of the rooms is made from the plan.
func TestMap(t *testing.T) {
	const begin, end = "<!-- map: made by `go test . -run TestMap -write-map` -->\n", "<!-- end of the map -->\n"
	data, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("ARCHITECTURE.md has no place for the map")
	}
	var b strings.Builder
	b.WriteString("| room | owns |\n|---|---|\n")
	for _, r := range rooms {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r.path, r.owns)
	}
	if b.String() == old {
		return
	}
	if !*writeMap {
		t.Fatal("ARCHITECTURE.md's map isn't the plan's: go test . -run TestMap -write-map")
	}
	if err := os.WriteFile("ARCHITECTURE.md", []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDirectDependencies(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(line, "\t") {
			continue
		}
		n++
		if !strings.Contains(string(reasons), "| "+f[0]+" |") {
			t.Errorf("docs/dependencies.md doesn't say why we use %s", f[0])
		}
	}
	if n == 0 || n > maxDeps {
		t.Errorf("%d direct dependencies, at most %d", n, maxDeps)
	}
}

var fset = token.NewFileSet()

// sources parses every Go file of the module itself. It opens the files in
// this process, so that Go's test cache sees what the verdict rests on.
func sources(t *testing.T, tests bool) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin") {
			return fs.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(path, ".go") || (!tests && strings.HasSuffix(path, "_test.go")) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s, err := parse(path, string(data))
		if err != nil {
			return err
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func parse(path, text string) (source, error) {
	f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
	pkg := filepath.Dir(path)
	if pkg == "." {
		pkg = "banger"
	}
	return source{pkg, path, strings.Count(text, "\n"), f}, err
}

// stop is a stop of a walk in HACKING.md: a file and a function in it.
var stop = regexp.MustCompile("(?m)^[0-9]+\\. `([^`]+\\.go)` `([^`]+)`")

// The walks through the house lead past functions that are there.
func TestWalks(t *testing.T) {
	data, err := os.ReadFile("HACKING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walks, ok := strings.Cut(string(data), "## Two walks")
	if !ok {
		t.Fatal("HACKING.md has no walks")
	}
	stops := stop.FindAllStringSubmatch(walks, -1)
	if len(stops) < 2 || len(stops) > 20 {
		t.Errorf("%d stops, at most ten each", len(stops))
	}
	files := sources(t, false)
	for _, s := range stops {
		if !slices.ContainsFunc(files, func(f source) bool { return f.path == s[1] && f.declares(s[2]) }) {
			t.Errorf("HACKING.md leads to %s %s, which isn't there", s[1], s[2])
		}
	}
}

func (s source) declares(name string) bool {
	return slices.ContainsFunc(s.file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Name.Name == name
	})
}
