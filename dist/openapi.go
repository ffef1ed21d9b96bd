package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"banger"
	"banger/api"
	"banger/api/wire"
	"banger/guest"
	"banger/version"
)

// object is one of JSON's.
type object = map[string]any

// what the parts of paths in braces are.
var nouns = map[string]string{
	"vm":        "A VM: its id, the first four digits of it or more, or its name.",
	"command":   "A command: its id, or the first four digits of it or more.",
	"operation": "An operation: its id, or the first four digits of it or more.",
	"image":     "An image: its name, its id, or the first four digits of it or more.",
	"kernel":    "A kernel: its id, the first four digits of it or more, or its name.",
	"template":  "A template: its id, or the first four digits of it or more.",
}

// openAPI is api/openapi.json: the route table with its types, as OpenAPI 3.1.
func openAPI() ([]byte, error) {
	src, err := readSources(map[string]string{"banger": ".", "banger/api": "api", "banger/api/inguest": "api/inguest", "banger/version": "version"})
	if err != nil {
		return nil, err
	}
	d := &description{sources: src, schemas: object{}, paths: map[string]object{}}
	d.answers = &jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, LookupComment: src.comment, Mapper: d.special(false)}
	d.requests = &jsonschema.Reflector{Anonymous: true, RequiredFromJSONSchemaTags: true, LookupComment: src.comment, Mapper: d.special(true), Namer: d.inputName}
	routes := api.Routes()
	// Answers first: a request's type that is an answer's too, with fewer fields that must
	// be there, has another name.
	answers := []reflect.Type{reflect.TypeFor[banger.Error](), reflect.TypeFor[banger.Event]()}
	for _, rt := range routes {
		for _, t := range []reflect.Type{rt.Out, rt.Line} {
			if t != nil {
				answers = append(answers, t)
			}
		}
	}
	for _, t := range answers {
		d.ref(d.answers, t)
	}
	d.given = maps.Clone(d.schemas)
	for _, rt := range routes {
		if d.paths[rt.Path] == nil {
			d.paths[rt.Path] = object{}
		}
		d.paths[rt.Path][strings.ToLower(rt.Method)] = d.operation(rt)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err = enc.Encode(struct {
		OpenAPI    string            `json:"openapi"`
		Info       object            `json:"info"`
		Servers    []object          `json:"servers"`
		Paths      map[string]object `json:"paths"`
		Components object            `json:"components"`
	}{
		"3.1.0", object{"title": "banger", "version": strconv.Itoa(version.API), "description": about},
		[]object{{"url": "http://banger", "description": "The daemon's Unix socket, which `banger daemon status` names. Any host name will do."}},
		d.paths, object{"schemas": d.schemas, "responses": object{"Error": d.errors()}},
	})
	// jsonschema keeps definitions beside the schema that uses them.
	return bytes.ReplaceAll(out.Bytes(), []byte(`"#/$defs/`), []byte(`"#/components/schemas/`)), err
}

const about = `The daemon of banger, over its Unix socket. Only the user it runs as may use it.

A request's fields may all be left out unless they are required; one that isn't known is refused. An answer may have more fields than are described here.

What takes long answers with lines of JSON (application/x-ndjson): any number of events, then exactly one result or error. An error before the first event has its status. A stream that ends without a result or an error was cut: the daemon ended. Ask the next one.`

type description struct {
	sources
	answers, requests *jsonschema.Reflector
	schemas           object // of all types, by name
	given             object // of those in answers
	paths             map[string]object
}

// ref makes sure that a type's schema is there, and refers to it.
func (d *description) ref(r *jsonschema.Reflector, t reflect.Type) *jsonschema.Schema {
	s := r.ReflectFromType(t)
	for name, def := range s.Definitions {
		d.schemas[name] = def
	}
	s.Definitions, s.Version = nil, ""
	return s
}

// inputName is a request's type's name.
func (d *description) inputName(t reflect.Type) string {
	if _, taken := d.given[t.Name()]; taken {
		return t.Name() + "Input"
	}
	return t.Name()
}

// special is a reflector's mapper: it describes the types that aren't on the wire what
// they are in Go, and names the values of those that have a few.
func (d *description) special(request bool) func(reflect.Type) *jsonschema.Schema {
	return func(t reflect.Type) *jsonschema.Schema {
		if t == reflect.TypeFor[guest.Bytes]() {
			encoded := jsonschema.NewProperties()
			encoded.Set("base64", &jsonschema.Schema{Type: "string", ContentEncoding: "base64"})
			return &jsonschema.Schema{Description: d.comment(t, ""), OneOf: []*jsonschema.Schema{
				{Type: "string"}, {Type: "object", Properties: encoded, Required: []string{"base64"}},
			}}
		}
		values := d.values[nameOf(t)]
		if t.Kind() != reflect.String || len(values) == 0 {
			return nil
		}
		s := &jsonschema.Schema{Type: "string", Description: d.comment(t, "")}
		for _, v := range values {
			if v.text != "" || request {
				s.Enum = append(s.Enum, v.text)
			}
			if v.text != "" && v.comment != "" {
				s.Description += "\n- `" + v.text + "`: " + v.comment
			}
		}
		if request && !slices.Contains(s.Enum, any("")) {
			s.Enum = append(s.Enum, "") // as good as left out
		}
		return s
	}
}

// operation describes a route.
func (d *description) operation(rt wire.Route) object {
	op := object{"operationId": rt.Name, "summary": rt.Summary, "tags": []string{tag(rt.Path)}}
	if params := d.parameters(rt); len(params) > 0 {
		op["parameters"] = params
	}
	switch {
	case rt.Takes != "":
		op["requestBody"] = object{"required": true, "content": object{rt.Takes: object{}}}
	case rt.Body != nil:
		schema := d.ref(d.requests, rt.Body)
		def, _ := d.schemas[d.inputName(rt.Body)].(*jsonschema.Schema)
		op["requestBody"] = object{"required": def != nil && len(def.Required) > 0, "content": object{"application/json": object{"schema": schema}}}
	}
	op["responses"] = object{
		strconv.Itoa(rt.Status): d.success(rt),
		"4XX":                   object{"$ref": "#/components/responses/Error"},
		"5XX":                   object{"$ref": "#/components/responses/Error"},
	}
	return op
}

// tag is the noun that a path is about.
func tag(path string) string {
	noun := strings.Split(path, "/")[2]
	if nouns[strings.TrimSuffix(noun, "s")] != "" {
		return noun
	}
	return cmp.Or(map[string]string{"builds": "images"}[noun], "daemon")
}

func (d *description) parameters(rt wire.Route) (params []object) {
	for part := range strings.SplitSeq(rt.Path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			params = append(params, object{"name": name, "in": "path", "required": true, "description": nouns[name], "schema": object{"type": "string"}})
		}
	}
	if rt.Query == nil {
		return params
	}
	inline := *d.requests
	inline.ExpandedStruct = true
	s := inline.ReflectFromType(rt.Query)
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		text := p.Value.Description
		p.Value.Description = ""
		params = append(params, object{"name": p.Key, "in": "query", "required": slices.Contains(s.Required, p.Key), "description": text, "schema": p.Value})
	}
	return params
}

// success describes an answer that is no error.
func (d *description) success(rt wire.Route) object {
	answer := object{"description": "It is done."}
	give := func(media string, schema any) {
		answer["content"] = object{media: object{"schema": schema}}
	}
	switch {
	case rt.Form == wire.FormList:
		give("application/json", object{
			"type": "object", "required": []string{"results"},
			"properties": object{"results": object{"type": "array", "items": d.ref(d.answers, rt.Out)}},
		})
	case rt.Form == wire.FormStream:
		answer["description"] = "Lines of progress. The schema is that of each line."
		give(wire.LinesType, d.lines(rt.Out, rt.Line))
	case rt.Form == wire.FormRaw && rt.Gives == wire.JSONType:
		give(rt.Gives, object{"type": "object"})
	case rt.Form == wire.FormRaw && rt.Status == 101:
		answer["description"] = "The connection is the stream's now."
	case rt.Form == wire.FormRaw && rt.Gives != "":
		answer["content"] = object{rt.Gives: object{}}
	case rt.Out != nil:
		give("application/json", d.ref(d.answers, rt.Out))
	}
	return answer
}

// lines describes a line of a stream of output, or else of events, that ends with a
// result of this type.
func (d *description) lines(out, output reflect.Type) object {
	result := any(object{"type": "object"})
	if out != nil {
		result = d.ref(d.answers, out)
	}
	line := func(name string, schema any) object {
		return object{"type": "object", "required": []string{name}, "properties": object{name: schema}, "additionalProperties": false}
	}
	first := line("event", d.ref(d.answers, reflect.TypeFor[banger.Event]()))
	if output != nil {
		first = line("output", d.ref(d.answers, output))
	}
	return object{"oneOf": []object{
		first, line("result", result),
		line("error", d.ref(d.answers, reflect.TypeFor[banger.Error]())),
	}}
}

// errors describes every error.
func (d *description) errors() object {
	var b strings.Builder
	b.WriteString("An error. Programs go by its code; its HTTP status is:")
	for _, v := range d.values["banger.Code"] {
		fmt.Fprintf(&b, "\n- `%s`: %d", v.text, wire.Status(banger.Code(v.text)))
	}
	b.WriteString("\n\nA body that is too large is `invalid` with 413, a method that a path doesn't have `invalid` with 405.")
	return object{
		"description": b.String(),
		"content": object{"application/json": object{"schema": object{
			"type": "object", "required": []string{"error"}, "properties": object{"error": d.ref(d.answers, reflect.TypeFor[banger.Error]())},
		}}},
	}
}
