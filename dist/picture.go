package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// picture is the recording as the README shows it: an SVG that plays by itself. Where
// SVGs don't move, it shows the last screen.
const picture = "docs/first-look.svg"

func writePicture() error {
	text, err := os.ReadFile(recording)
	if err != nil {
		return err
	}
	svg, err := draw(text)
	if err != nil {
		return fmt.Errorf("%s: %w", recording, err)
	}
	return os.WriteFile(picture, svg, 0o644)
}

// How a recording is drawn. Times are in seconds, lengths in SVG's units.
const (
	frame     = 0.1 // of what changes faster, one state in this time is drawn
	longest   = 1.0 // nobody wants to watch a pause
	rest      = 6.0 // the last screen stays, then it begins anew
	cellWide  = 7.2
	lineHigh  = 17
	margin    = 14
	header    = 26 // of the window
	fontSize  = 12
	mostBytes = 80 << 10
)

// looks are the colours of SGR parameters, and typed text's and banger's own.
var looks = map[string]string{"1": "b", "2": "f", "31": "r", "32": "g", "33": "y", "36": "c", "1;31": "a"}

const style = `<style>text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d8dee9}` +
	`.p{fill:#eceff4;font-weight:600}.b{fill:#eceff4;font-weight:600}.f{fill:#7b869c}.r,.a{fill:#ef6f7a}.a{font-weight:600}.g{fill:#a3be8c}.y{fill:#ebcb8b}.c{fill:#88c0d0}.t{fill:#7b869c;text-anchor:middle}</style>` + "\n"

// cell is a sign on the screen, and how it looks.
type cell struct {
	sign rune
	look string // a class of the picture; "" is plain
}

// shown is what one row of the screen had, and when.
type shown struct {
	text     []cell
	from, to float64 // to < 0: until the end
}

// draw makes an SVG of an asciicast of version 2 that doesn't scroll. It knows the
// signs that banger's output and a shell's prompt use: \r, \n, colours, and that a line
// or all are cleared.
func draw(cast []byte) ([]byte, error) {
	rows, wide, end, err := play(cast)
	if err != nil {
		return nil, err
	}
	b := window(wide, len(rows), "banger: a first look")
	// All others begin with this one, so that all begin anew together.
	fmt.Fprintf(b, `<rect width="0" height="0"><set id="a" attributeName="x" to="0" begin="0s;a.end" dur="%gs"/></rect>`+"\n", round(end+rest))
	for y, states := range rows {
		for _, s := range states {
			s.draw(b, y, true)
		}
	}
	return whole(b)
}

// still makes an SVG of the last screen of a recording that fits an expression, as high as
// what that shows.
func still(cast []byte, shows *regexp.Regexp, title string) ([]byte, error) {
	var screen [][]cell
	_, err := screens(cast, func(_ float64, rows [][]cell) {
		var text strings.Builder
		for _, row := range rows {
			text.WriteString(signs(row) + "\n")
		}
		if shows.MatchString(text.String()) {
			screen = nil
			for _, row := range rows {
				screen = append(screen, slices.Clone(row))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if screen == nil {
		return nil, fmt.Errorf("no screen shows %s", shows)
	}
	for n := len(screen); n > 0 && (signs(screen[n-1]) == "" || signs(screen[n-1]) == strings.TrimSpace(prompt)); n-- {
		screen = screen[:n-1]
	}
	wide := 60
	for _, row := range screen {
		wide = max(wide, len(row))
	}
	b := window(wide, len(screen), title)
	for y, row := range screen {
		if strings.TrimSpace(signs(row)) != "" {
			shown{text: row, to: -1}.draw(b, y, false)
		}
	}
	return whole(b)
}

func signs(row []cell) string {
	var b strings.Builder
	for _, c := range row {
		b.WriteRune(c.sign)
	}
	return strings.TrimRight(b.String(), " ")
}

// window begins a picture.
func window(wide, high int, title string) *bytes.Buffer {
	b := &bytes.Buffer{}
	w, h := math.Round(float64(wide)*cellWide)+2*margin, float64(high*lineHigh+2*margin+header)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" xml:space="preserve" role="img">`, w, h, w, h)
	fmt.Fprintf(b, "\n<title>%s, recorded in a terminal</title>\n", title)
	b.WriteString(style)
	fmt.Fprintf(b, `<rect width="%g" height="%g" rx="8" fill="#1f2430"/><path d="M0 %d V8 a8 8 0 0 1 8 -8 H%g a8 8 0 0 1 8 8 V%d Z" fill="#2a3040"/>`+"\n", w, h, header, w-8, header)
	for i, color := range []string{"#ef6f7a", "#ebcb8b", "#a3be8c"} {
		fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="5" fill="%s"/>`, 18+16*i, header/2, color)
	}
	fmt.Fprintf(b, `<text x="%g" y="%d" class="t">%s</text>`+"\n", w/2, header/2+4, title)
	return b
}

// whole ends a picture.
func whole(b *bytes.Buffer) ([]byte, error) {
	b.WriteString("</svg>\n")
	if b.Len() > mostBytes {
		return nil, fmt.Errorf("the picture has %d bytes, more than %d", b.Len(), mostBytes)
	}
	return b.Bytes(), nil
}

// draw writes what a row had for a while.
func (s shown) draw(b *bytes.Buffer, y int, moves bool) {
	text := signs(s.text)
	wide := utf8.RuneCountInString(text)
	class := ""
	if strings.HasPrefix(text, prompt) {
		class = ` class="p"`
	}
	hidden, until := "", ""
	if s.to >= 0 { // where nothing moves it isn't shown
		hidden, until = ` visibility="hidden"`, fmt.Sprintf(` dur="%gs"`, round(s.to-s.from))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" textLength="%g"%s%s>`, margin, header+margin+fontSize+y*lineHigh, round(float64(wide)*cellWide), class, hidden)
	for at := 0; at < wide; {
		end := at + 1
		for end < wide && s.text[end].look == s.text[at].look {
			end++
		}
		part := string([]rune(text)[at:end])
		if look := s.text[at].look; look != "" {
			fmt.Fprintf(b, `<tspan class="%s">`, look)
			_ = xml.EscapeText(b, []byte(part)) // writes to memory
			b.WriteString("</tspan>")
		} else {
			_ = xml.EscapeText(b, []byte(part))
		}
		at = end
	}
	switch {
	case !moves:
	case s.to < 0:
		fmt.Fprintf(b, `<set attributeName="visibility" to="hidden" begin="a.begin" dur="%gs"/>`, max(0.01, round(s.from)))
	default:
		fmt.Fprintf(b, `<set attributeName="visibility" to="visible" begin="a.begin+%gs"%s/>`, round(s.from), until)
	}
	b.WriteString("</text>\n")
}

func round(n float64) float64 { return math.Round(n*100) / 100 }

// screens calls see for each screen of a recording, and returns the time of the last. A
// pause is no longer than longest.
func screens(cast []byte, see func(now float64, rows [][]cell)) (now float64, err error) {
	all := bytes.Split(bytes.TrimSpace(cast), []byte("\n"))
	var head struct{ Width, Height int }
	if err := json.Unmarshal(all[0], &head); err != nil {
		return 0, err
	}
	t := terminal{rows: [][]cell{{}}}
	last := 0.0
	for _, line := range all[1:] {
		var event []any
		if err := json.Unmarshal(line, &event); err != nil || len(event) != 3 {
			return 0, fmt.Errorf("no event: %s", line)
		}
		at, _ := event[0].(float64)
		data, _ := event[2].(string)
		now, last = now+min(longest, at-last), at
		if err := t.write(data); err != nil {
			return 0, err
		}
		if len(t.rows) > head.Height {
			return 0, fmt.Errorf("it scrolls: %d lines, of a terminal of %d", len(t.rows), head.Height)
		}
		see(now, t.rows)
	}
	return now, nil
}

// play returns what each row had and when, the longest line in cells, and the time of
// the end.
func play(cast []byte) (rows [][]shown, wide int, end float64, err error) {
	end, err = screens(cast, func(now float64, screen [][]cell) { rows = seen(rows, screen, now) })
	if err != nil {
		return nil, 0, 0, err
	}
	for y, states := range rows {
		// Of what changes fast, some is enough; each lasts until the next.
		drawn := math.Inf(-1)
		states = slices.DeleteFunc(states, func(s shown) bool {
			if s.to >= 0 && s.to-s.from < frame && s.from-drawn < frame {
				return true
			}
			drawn = s.from
			return false
		})
		for i := range states[:max(0, len(states)-1)] {
			states[i].to = states[i+1].from
		}
		rows[y] = slices.DeleteFunc(states, func(s shown) bool { return len(s.text) == 0 })
		for _, s := range rows[y] {
			wide = max(wide, len(s.text))
		}
	}
	return rows, wide, end, nil
}

// seen adds what the screen has now to what it had before.
func seen(rows [][]shown, screen [][]cell, now float64) [][]shown {
	for y, cells := range screen {
		if y == len(rows) {
			rows = append(rows, nil)
		}
		for len(cells) > 0 && cells[len(cells)-1].sign == ' ' {
			cells = cells[:len(cells)-1]
		}
		n := len(rows[y])
		switch {
		case n > 0 && slices.Equal(rows[y][n-1].text, cells), n == 0 && len(cells) == 0:
			continue
		case n > 0:
			rows[y][n-1].to = now
		}
		rows[y] = append(rows[y], shown{text: slices.Clone(cells), from: now, to: -1})
	}
	return rows
}

// terminal is a screen that grows downwards.
type terminal struct {
	rows [][]cell
	x    int    // in the last row
	look string // of what is written
}

// escape is a sequence that a terminal obeys: "CSI parameters letter".
var escape = regexp.MustCompile("^\x1b\\[([0-9;?]*)([A-Za-z])")

func (t *terminal) write(data string) error {
	for rest := data; rest != ""; {
		row := &t.rows[len(t.rows)-1]
		if m := escape.FindStringSubmatch(rest); m != nil {
			rest = rest[len(m[0]):]
			look, known := looks[m[1]]
			switch {
			case m[2] == "K" && m[1] == "":
				*row = (*row)[:min(t.x, len(*row))]
			case m[2] == "m" && (m[1] == "0" || known):
				t.look = look
			case m[2] == "H" && m[1] == "":
			case m[2] == "J" && m[1] == "2": // after H
				t.rows, t.x = [][]cell{{}}, 0
			case m[1] != "" && m[1][0] == '?': // modes
			default:
				return fmt.Errorf("the sequence %q isn't known here", m[0])
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
		switch {
		case r == '\r':
			t.x = 0
		case r == '\n':
			t.rows, t.x = append(t.rows, []cell{}), 0
		case r < ' ':
			return fmt.Errorf("the sign %q isn't known here", r)
		default:
			for len(*row) <= t.x {
				*row = append(*row, cell{' ', ""})
			}
			(*row)[t.x] = cell{r, t.look}
			t.x++
		}
	}
	return nil
}
