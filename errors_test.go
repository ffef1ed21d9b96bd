package banger_test

import (
	"bufio"
	"flag"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var profiles = flag.String("profiles", "", "coverage profiles of the tests, with commas: every error text must be in them, or have its reason in test/errors.txt")

// notShipped are packages whose errors no user of banger sees.
var notShipped = []string{"test/fake", "test/bench", "test/lab", "dist", "test/archivetest", "test/clienttest", "test/disktest", "test/hostile", "test/hypervisortest", "test/networktest", "test/storetest"}

// errorText is a text that some code makes errors with, and where.
type errorText struct{ pkg, text string }

// Every error text has a test that provokes it, or a line that says why it can't
// be provoked. Without -profiles only that the lines still mean something.
func TestErrorTexts(t *testing.T) {
	texts := errorTexts(t)
	if len(texts) < 100 {
		t.Fatalf("%d error texts: they aren't found any more", len(texts))
	}
	excused := excuses(t)
	used := map[errorText]bool{}
	excuse := func(e errorText) bool {
		found := false
		for x := range excused {
			if like(x.pkg, e.pkg) && like(x.text, e.text) {
				used[x], found = true, true
			}
		}
		return found
	}
	covered := readProfiles(t)
	provoked := 0
	for _, e := range slices.SortedFunc(maps.Keys(texts), func(a, b errorText) int {
		return strings.Compare(a.pkg+a.text, b.pkg+b.text)
	}) {
		if slices.ContainsFunc(texts[e], covered.at) {
			provoked++
			continue
		}
		if strings.ContainsFunc(e.text, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s: %q has what not every terminal can show", texts[e][0], e.text)
		}
		if !excuse(e) && *profiles != "" {
			t.Errorf("%s: no test provokes %q, and test/errors.txt doesn't say why", texts[e][0], e.text)
		}
	}
	if *profiles == "" {
		for e := range texts {
			excuse(e)
		}
		for x := range excused {
			if !used[x] {
				t.Errorf("test/errors.txt: %s has no error text %q any more", x.pkg, x.text)
			}
		}
		return
	}
	t.Logf("%d error texts: %d provoked, %d excused", len(texts), provoked, len(texts)-provoked)
}

// errorTexts finds the formats of all errors made in what ships.
func errorTexts(t *testing.T) map[errorText][]token.Position {
	all := map[errorText][]token.Position{}
	named := map[errorText]errorText{} // by package and name of the variable
	files := sources(t, false)
	files = slices.DeleteFunc(files, func(s source) bool { return slices.Contains(notShipped, s.pkg) })
	for _, s := range files {
		for _, d := range s.file.Decls {
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if text, pos := errorFormat(n); text != "" {
						e := errorText{s.pkg, text}
						all[e] = append(all[e], fset.Position(pos))
					}
				case *ast.ValueSpec:
					if _, inFunc := d.(*ast.FuncDecl); inFunc || len(n.Values) != 1 {
						break
					}
					if call, ok := n.Values[0].(*ast.CallExpr); ok {
						if text, _ := errorFormat(call); text != "" {
							named[errorText{s.pkg, n.Names[0].Name}] = errorText{s.pkg, text}
						}
					}
				}
				return true
			})
		}
	}
	// An error that is a variable of its package is provoked where it is used.
	for _, s := range files {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					if e, ok := named[errorText{s.pkg, id.Name}]; ok {
						all[e] = append(all[e], fset.Position(id.Pos()))
					}
				}
				return true
			})
		}
	}
	return all
}

// errorFormat returns the text of a call that makes an error.
func errorFormat(call *ast.CallExpr) (string, token.Pos) {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			name = x.Name + "." + f.Sel.Name
		}
	case *ast.Ident:
		name = f.Name
	}
	if !strings.HasSuffix(name, "Errorf") && name != "errors.New" {
		return "", 0
	}
	for _, arg := range call.Args[:min(2, len(call.Args))] {
		if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			return text, lit.Pos()
		}
	}
	return "", 0
}

// like reports whether s is as the pattern says, where * is anything.
func like(pattern, s string) bool {
	first, rest, any := strings.Cut(pattern, "*")
	if !any {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	for i := range len(s) + 1 {
		if like(rest, s[i:]) {
			return true
		}
	}
	return false
}

// excuses reads test/errors.txt: paragraphs of a reason, in lines that begin with
// #, and below it texts as `package: text`, quoted as in Go but for the quotes. In
// both, * is anything.
func excuses(t *testing.T) map[errorText]bool {
	data, err := os.ReadFile("test/errors.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[errorText]bool{}
	reason := false
	for n, line := range strings.Split(string(data), "\n") {
		pkg, text, ok := strings.Cut(line, ": ")
		switch {
		case line == "":
			reason = false
		case strings.HasPrefix(line, "#"):
			reason = true
		case !ok || !reason:
			t.Errorf("test/errors.txt:%d: want `package: text`, below a reason", n+1)
		default:
			text, err := strconv.Unquote(`"` + text + `"`)
			if err != nil {
				t.Errorf("test/errors.txt:%d: %v", n+1, err)
			}
			all[errorText{pkg, text}] = true
		}
	}
	return all
}

// coverage is the statements that ran, as spans of a file.
type coverage map[string][]span

type span struct{ fromLine, fromCol, toLine, toCol int }

func (c coverage) at(p token.Position) bool {
	return slices.ContainsFunc(c[filepath.ToSlash(p.Filename)], func(s span) bool {
		after := p.Line > s.fromLine || p.Line == s.fromLine && p.Column >= s.fromCol
		before := p.Line < s.toLine || p.Line == s.toLine && p.Column <= s.toCol
		return after && before
	})
}

// readProfiles reads what go test -coverprofile wrote:
// banger/engine/start.go:12.2,15.16 3 1
func readProfiles(t *testing.T) coverage {
	c := coverage{}
	for _, name := range strings.FieldsFunc(*profiles, func(r rune) bool { return r == ',' }) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			file, rest, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "banger/"), ":")
			f := strings.FieldsFunc(rest, func(r rune) bool { return r == '.' || r == ',' || r == ' ' })
			if !ok || len(f) != 6 || f[5] == "0" {
				continue
			}
			var n [4]int
			for i := range n {
				n[i], _ = strconv.Atoi(f[i])
			}
			c[file] = append(c[file], span{n[0], n[1], n[2], n[3]})
		}
		_ = f.Close()
	}
	return c
}
