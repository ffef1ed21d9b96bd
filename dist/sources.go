package main

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// sources is what the source code says of types beside what reflection does.
type sources struct {
	comments map[string]string  // by "package.Type" and "package.Type.Field"
	values   map[string][]named // constants of a string type, as they are declared
}

// named is a value of a type that has a few.
type named struct{ text, comment string }

// readSources reads packages, each from its directory.
func readSources(dirs map[string]string) (sources, error) {
	s := sources{map[string]string{}, map[string][]named{}}
	for pkg, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return s, err
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return s, err
			}
			for _, d := range f.Decls {
				if gen, ok := d.(*ast.GenDecl); ok {
					s.read(pkg, gen)
				}
			}
		}
	}
	return s, nil
}

func (s sources) read(pkg string, gen *ast.GenDecl) {
	for _, spec := range gen.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			doc := spec.Doc
			if doc == nil {
				doc = gen.Doc
			}
			name := pkg + "." + spec.Name.Name
			s.comments[name] = sentence(doc)
			if fields, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range fields.Fields.List {
					for _, id := range f.Names {
						s.comments[name+"."+id.Name] = cmp.Or(sentence(f.Doc), sentence(f.Comment))
					}
				}
			}
		case *ast.ValueSpec:
			typ, ok := spec.Type.(*ast.Ident)
			if !ok || len(spec.Values) != 1 {
				continue
			}
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				name := pkg + "." + typ.Name
				s.values[name] = append(s.values[name], named{text, sentence(spec.Comment)})
			}
		}
	}
}

// sentence is a comment on one line.
func sentence(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

// comment is that of a type, or of its field.
func (s sources) comment(t reflect.Type, field string) string {
	name := nameOf(t)
	if field != "" {
		name += "." + field
	}
	return s.comments[name]
}

func nameOf(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }
