package main

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/cli"
)

const jsonIntro = `# What --json prints

Made from the commands themselves by ` + "`make docs`" + `; a test fails when it is stale, and another runs every command.

Every command with ` + "`--json`" + ` prints one JSON object, in one line, on standard output:

` + "```json" + `
{"results":[...],"errors":[...]}
` + "```" + `

- Both lists are always there. ` + "`results`" + ` has what was found or done; ` + "`errors`" + ` has what went wrong. A command about several
  VMs may have both.
- The exit status is the same as without ` + "`--json`" + ` (` + "`banger help`" + ` lists them). When it isn't 0, there is an error, but for
  ` + "`run` and `exec`" + `, whose status is that of the command in the VM.
- Nothing is written to standard error, unless it is a terminal.
- What goes on (` + "`events -f`, `logs -f`, `stats --watch`" + `) prints such an object a line.
- Fields may be added. None changes its meaning.
- A field that is "optional" is left out when it is empty.

`

// jsonReference is docs/reference/json.md.
func jsonReference() ([]byte, error) {
	root, results := cli.Command()
	var out bytes.Buffer
	out.WriteString(jsonIntro + "## Commands\n\n| command | its results |\n|---|---|\n")
	src, err := readSources(map[string]string{"banger": ".", "banger/cli": "cli", "banger/config": "config", "banger/version": "version"})
	if err != nil {
		return nil, err
	}
	wanted := []reflect.Type{reflect.TypeFor[banger.Error]()}
	err = each(root, func(c *cobra.Command) error {
		var cells []string
		for _, res := range results(c) {
			wanted = append(wanted, res.Type)
			cells = append(cells, strings.TrimSpace(link(res.Type)+" "+res.When))
		}
		if len(cells) > 0 {
			fmt.Fprintf(&out, "| `%s` | %s |\n", c.CommandPath(), strings.Join(cells, ", "))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.WriteString("\n## Types\n")
	var pages []string
	for seen := map[reflect.Type]bool{}; len(wanted) > 0; {
		t := wanted[0]
		wanted = wanted[1:]
		if seen[t] || !described(t) {
			continue
		}
		seen[t] = true
		page, more := describe(src, t)
		pages, wanted = append(pages, page), append(wanted, more...)
	}
	slices.Sort(pages)
	out.WriteString(strings.Join(pages, ""))
	return out.Bytes(), nil
}

// link names a type, with a link to its description where it has one.
func link(t reflect.Type) string {
	if described(t) {
		return "[" + t.Name() + "](#" + strings.ToLower(t.Name()) + ")"
	}
	return t.Name()
}

// described reports whether a type has a description of its own: a struct of ours, or
// words that one of ours may be.
func described(t reflect.Type) bool {
	return strings.HasPrefix(t.PkgPath(), "banger") && (t.Kind() == reflect.Struct || t.Kind() == reflect.String)
}

// words says in words what values of a type are in JSON, and which types of ours that
// mentions.
func words(t reflect.Type) (text string, more []reflect.Type) {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time (RFC 3339)", nil
	case t == reflect.TypeFor[time.Duration]():
		return "nanoseconds", nil
	case described(t):
		return link(t), []reflect.Type{t}
	case t.PkgPath() == "banger/guest" && t.Name() == "Bytes":
		return "string", nil
	case t.Kind() == reflect.Pointer:
		return words(t.Elem())
	case t.Kind() == reflect.Slice:
		text, more = words(t.Elem())
		return "list of " + text, more
	case t.Kind() == reflect.Interface:
		return "any", nil
	case t.Kind() == reflect.Bool:
		return "boolean", nil
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "integer", nil
	case t.Kind() >= reflect.Float32 && t.Kind() <= reflect.Float64:
		return "number", nil
	}
	return t.Kind().String(), nil
}

// plain is text that a cell of a table can have.
func plain(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// describe is a type's part of the reference, and the types it mentions.
func describe(s sources, t reflect.Type) (text string, more []reflect.Type) {
	var out strings.Builder
	fmt.Fprintf(&out, "\n### %s\n\n%s\n\n", t.Name(), s.comment(t, ""))
	if t.Kind() == reflect.String {
		for _, v := range s.values[nameOf(t)] {
			fmt.Fprintf(&out, "- %s\n", strings.TrimSuffix("`"+v.text+"`: "+v.comment, ": "))
		}
		return out.String(), nil
	}
	out.WriteString("| field | is | meaning |\n|---|---|---|\n")
	more = fields(&out, s, t)
	return out.String(), more
}

// fields writes a line for each field; those of an embedded struct are its own.
func fields(out *strings.Builder, s sources, t reflect.Type) (more []reflect.Type) {
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			more = append(more, fields(out, s, inner)...)
			continue
		}
		if name == "-" || !f.IsExported() {
			continue
		}
		is, types := words(f.Type)
		if strings.Contains(opts, "omit") {
			is += ", optional"
		}
		more = append(more, types...)
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", name, is, plain(s.comment(t, f.Name)))
	}
	return more
}
