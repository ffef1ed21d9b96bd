package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The picture in the tree is that of the recording in the tree, and small.
func TestPicture(t *testing.T) {
	cast, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	want, err := draw(cast)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(picture)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("%s isn't drawn from %s: go run ./dist -picture (%v)", picture, recording, err)
	}
	if len(want) > mostBytes {
		t.Errorf("%d bytes", len(want))
	}
}

// texts are the texts of a picture: those of its last screen, and those before.
func texts(t *testing.T, svg []byte) (last, before []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	text, hidden, in := "", false, false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return last, before
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "text" {
				text, hidden, in = "", false, true
				for _, a := range token.Attr {
					hidden = hidden || a.Name.Local == "visibility"
					in = in && a.Value != "t" // the window's title
				}
			}
		case xml.CharData:
			if in {
				text += string(token)
			}
		case xml.EndElement:
			if token.Name.Local == "text" && in && hidden {
				before, in = append(before, text), false
			} else if token.Name.Local == "text" && in {
				last, in = append(last, text), false
			}
		}
	}
}

// What a terminal would show at the end is shown where nothing moves; what was there
// before comes at its time. What can't be drawn is an error.
func TestDraw(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	const head = `{"version":2,"width":80,"height":3}` + "\n"
	svg, err := draw([]byte(head + `[0.1,"o","$ ls <dir>"]
[0.5,"o","\r\nworking"]
[0.9,"o","\r\u001b[Kdo\u001b[32mne\u001b[0m"]
[1.5,"o","\r\n"]
[1.6,"o","$ "]
`))
	if err != nil {
		t.Fatal(err)
	}
	last, before := texts(t, svg)
	if strings.Join(last, "|") != "$ ls <dir>|done|$" || strings.Join(before, "|") != "working" {
		t.Errorf("at the end %q, before %q", last, before)
	}
	if !strings.Contains(string(svg), `do<tspan class="g">ne</tspan>`) {
		t.Errorf("no colours: %s", svg)
	}
	again, _ := draw([]byte(head + `[0.1,"o","x"]`))
	if same, _ := draw([]byte(head + `[0.1,"o","x"]`)); !bytes.Equal(again, same) {
		t.Error("two pictures of one recording differ")
	}
	for what, c := range map[string]struct{ events, want string }{
		"scrolls": {`[0.1,"o","1\r\n2\r\n3\r\n4"]`, "it scrolls"},
		"moves":   {`[0.1,"o","\u001b[2A"]`, "isn't known here"},
		"broken":  {`[0.1,"o"]`, "no event"},
		"large":   {`[0.1,"o","` + strings.Repeat("x", mostBytes) + `"]`, "more than"},
	} {
		if _, err := draw([]byte(head + c.events)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A still picture shows the last screen that fits, as high as that is, in its colours.
func TestStill(t *testing.T) {
	const cast = `{"version":2,"width":80,"height":9}
[0.1,"o","$ make\r\n"]
[0.2,"o","\r\u001b[Kat \u001b[1;31m40%\u001b[0m"]
[0.3,"o","\r\u001b[Kat 60%"]
[0.4,"o","\r\u001b[Kdone\r\n$ "]`
	svg, err := still([]byte(cast), regexp.MustCompile("40%"), "t")
	if err != nil || !strings.Contains(string(svg), `at <tspan class="a">40%</tspan></text>`) || strings.Contains(string(svg), "<set") {
		t.Errorf("%s, %v", svg, err)
	}
	svg, err = still([]byte(cast), regexp.MustCompile("done"), "t")
	if last, before := texts(t, svg); err != nil || strings.Join(last, "|") != "$ make|done" || before != nil {
		t.Errorf("%q, %q, %v", last, before, err)
	}
	if _, err := still([]byte(cast), regexp.MustCompile("nothing"), "t"); err == nil || !strings.Contains(err.Error(), "no screen shows nothing") {
		t.Error(err)
	}
}

// Each picture of the page of screenshots is there, shows what it is said to show, and
// stands on the page.
func TestShots(t *testing.T) {
	page, err := os.ReadFile("docs/screenshots.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shots {
		svg, err := os.ReadFile(s.file())
		if err != nil {
			t.Error(err)
			continue
		}
		last, _ := texts(t, svg)
		text := strings.Join(last, "\n") + "\n"
		for _, k := range s.typed {
			if k.await == "" && s.name != "stats" && !strings.Contains(text, prompt+k.typed) {
				t.Errorf("%s doesn't show %q: make recording", s.file(), k.typed)
			}
		}
		if !regexp.MustCompile(s.shows).MatchString(text) {
			t.Errorf("%s doesn't show %s: make recording", s.file(), s.shows)
		}
		if !strings.Contains(string(page), "(screenshots/"+s.name+".svg)") {
			t.Errorf("docs/screenshots.md doesn't show %s", s.file())
		}
	}
}
