package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"banger"
)

// Route is one thing that can be asked of the daemon. The server serves it, and the
// description of the API is made from it.
type Route struct {
	Name         string // what it is called in the description; the service's method, where there is one
	Method, Path string // as of net/http's patterns: a part in braces is any
	Summary      string
	Form         Form
	Status       int          // of an answer that is no error
	Query        reflect.Type // what its query says; nil: it has none
	Body         reflect.Type // its JSON body; nil: it has none
	Out          reflect.Type // its answer, an element of its list, or what its stream ends with; nil: it says Nothing
	Line         reflect.Type // what the lines of its stream have as "output"; nil: they have events
	Takes, Gives string       // media types of bodies that are no JSON

	May   Access
	Serve func(w http.ResponseWriter, r *http.Request) error
}

// Form is how a route answers.
type Form int

// The forms.
const (
	FormValue  Form = iota // one JSON object, or Nothing
	FormList               // {"results": [...]}
	FormStream             // lines: events, then a result or an error
	FormRaw                // bytes, or another protocol
)

// Access says who may use a route.
type Access int

const (
	nobody Access = iota // the zero value, so that a route without Access is closed
	Anyone               // every user whom the socket's mode lets connect
	Owner                // the user the daemon runs as
)

// Nothing is what a route takes or gives that says so.
type Nothing = struct{}

// newRoute is a route to "METHOD /path". What goes in is its query where it has no
// JSON body.
func newRoute[In, Out any](name, way string, may Access, form Form, summary string) Route {
	rt := Route{Name: name, Summary: summary, Form: form, Status: http.StatusOK, Out: said[Out](), May: may}
	rt.Method, rt.Path, _ = strings.Cut(way, " ")
	if form == FormRaw || rt.Method == http.MethodGet || rt.Method == http.MethodDelete {
		rt.Query = said[In]()
	} else {
		rt.Body = said[In]()
	}
	return rt
}

// said is a type, or nil for Nothing.
func said[T any]() reflect.Type {
	if t := reflect.TypeFor[T](); t != reflect.TypeFor[Nothing]() {
		return t
	}
	return nil
}

// Value answers with one JSON object, or, where do returns Nothing, with no body.
func Value[In, Out any](name, way string, may Access, summary string, do func(context.Context, *http.Request, In) (Out, error)) Route {
	rt := newRoute[In, Out](name, way, may, FormValue, summary)
	if rt.Out == nil {
		rt.Status = http.StatusNoContent
	}
	return valued(rt, do)
}

// Begun is a Value of what goes on after the answer.
func Begun[In, Out any](name, way string, may Access, summary string, do func(context.Context, *http.Request, In) (Out, error)) Route {
	rt := newRoute[In, Out](name, way, may, FormValue, summary)
	rt.Status = http.StatusAccepted
	return valued(rt, do)
}

func valued[In, Out any](rt Route, do func(context.Context, *http.Request, In) (Out, error)) Route {
	status, query := rt.Status, rt.Query != nil
	rt.Serve = func(w http.ResponseWriter, r *http.Request) error {
		in, err := input[In](w, r, query)
		if err != nil {
			return err
		}
		out, err := do(r.Context(), r, in)
		if err != nil {
			return err
		}
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return nil
		}
		return Answer(w, status, out)
	}
	return rt
}

// List answers with a list of Out.
func List[In, Out any](name, way string, may Access, summary string, do func(context.Context, *http.Request, In) ([]Out, error)) Route {
	rt := newRoute[In, Out](name, way, may, FormList, summary)
	rt.Serve = valued(rt, func(ctx context.Context, r *http.Request, in In) (Results[Out], error) {
		all, err := do(ctx, r, in)
		if all == nil {
			all = []Out{}
		}
		return Results[Out]{all}, err
	}).Serve
	return rt
}

// Stream answers with progress, then with Out.
func Stream[In, Out any](name, way string, may Access, summary string, do func(context.Context, *http.Request, In, banger.Progress) (Out, error)) Route {
	rt := newRoute[In, Out](name, way, may, FormStream, summary)
	rt.Serve = func(w http.ResponseWriter, r *http.Request) error {
		in, err := input[In](w, r, rt.Query != nil)
		if err != nil {
			return err
		}
		return Progress(w, func(p banger.Progress) (Out, error) { return do(r.Context(), r, in, p) })
	}
	return rt
}

// Raw leaves the answer, and what comes beside the query, to do. The media types are
// those of both; one that gives none answers without a body.
func Raw[In any](name, way string, may Access, summary string, takes, gives string, do func(http.ResponseWriter, *http.Request, In) error) Route {
	rt := newRoute[In, Nothing](name, way, may, FormRaw, summary)
	rt.Takes, rt.Gives = takes, gives
	if gives == "" {
		rt.Status = http.StatusNoContent
	}
	rt.Serve = func(w http.ResponseWriter, r *http.Request) error {
		in, err := query[In](r)
		if err != nil {
			return err
		}
		return do(w, r, in)
	}
	return rt
}

// Lines is Raw, and what do answers is lines, as Stream answers. Out is what they end
// with if they end well.
func Lines[In, Out any](name, way string, may Access, summary string, takes string, do func(http.ResponseWriter, *http.Request, In) error) Route {
	rt := Raw(name, way, may, summary, takes, LinesType, do)
	rt.Form, rt.Out = FormStream, said[Out]()
	return rt
}

// Upgrade is Raw, and do makes the connection one of another protocol.
func Upgrade(name, way string, may Access, summary string, do func(http.ResponseWriter, *http.Request, Nothing) error) Route {
	rt := Raw(name, way, may, summary, "", "", do)
	rt.Status = http.StatusSwitchingProtocols
	return rt
}

// input reads what goes into a route that isn't raw.
func input[In any](w http.ResponseWriter, r *http.Request, inQuery bool) (In, error) {
	if inQuery {
		if _, err := body[Nothing](w, r); err != nil {
			return *new(In), err
		}
		return query[In](r)
	}
	if _, err := query[Nothing](r); err != nil {
		return *new(In), err
	}
	return body[In](w, r)
}

// query decodes a request's query by the JSON names of In. What isn't known is
// refused, as in a body.
func query[In any](r *http.Request) (in In, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return in, banger.Errorf(banger.CodeInvalid, "the query can't be read: %w", err)
	}
	v := reflect.ValueOf(&in).Elem()
	for name, all := range values {
		f := fieldOf(v, name)
		if !f.IsValid() {
			return in, banger.Errorf(banger.CodeInvalid, "there is no query parameter %q here", name)
		}
		if len(all) != 1 {
			return in, banger.Errorf(banger.CodeInvalid, "the query parameter %q is there %d times", name, len(all))
		}
		if err := set(f, all[0]); err != nil {
			return in, banger.Errorf(banger.CodeInvalid, "the query parameter %s=%q: %w", name, all[0], err)
		}
	}
	return in, nil
}

// fieldOf returns the field of a struct that has a JSON name, or the zero Value.
func fieldOf(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if own, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); own == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// set gives a field the value that a text stands for.
func set(f reflect.Value, text string) error {
	switch f.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("true or false is needed")
		}
		f.SetBool(text == "true")
	case reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errors.New("a whole number is needed")
		}
		f.SetInt(n)
	default:
		f.SetString(text)
	}
	return nil
}

// body decodes a JSON request. Unknown fields are refused, so that what a newer
// client asks for isn't silently ignored. The body is read to its end, because only
// then does net/http notice that the client left.
func body[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if over, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return v, tooLarge{banger.Errorf(banger.CodeInvalid, "the request is larger than %d bytes", over.Limit)}
	}
	if err != nil {
		return v, banger.Errorf(banger.CodeInvalid, "request body: %w", err)
	}
	if err := decode(data, &v); err != nil {
		return v, banger.Errorf(banger.CodeInvalid, "request body: %w", err)
	}
	return v, nil
}

// tooLarge is an error that has a status of its own.
type tooLarge struct{ error }

func (e tooLarge) Unwrap() error { return e.error }

func decode(data []byte, v any) error {
	if len(data) == 0 {
		return nil // an empty body is the zero request
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return errors.New("the request is null: send {} to ask for the defaults")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}
