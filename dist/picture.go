package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
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
	fontSize  = 12
	mostBytes = 60 << 10
)

// shown is what one row of the screen had, and when.
type shown struct {
	text     string
	from, to float64 // to < 0: until the end
}

// draw makes an SVG of an asciicast of version 2 that doesn't scroll. It knows the
// signs that banger's progress and a shell's prompt use: \r, \n and ESC [ K.
func draw(cast []byte) ([]byte, error) {
	rows, wide, end, err := play(cast)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w, h := math.Round(float64(wide)*cellWide)+2*margin, float64(len(rows)*lineHigh+2*margin)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" xml:space="preserve" role="img">`, w, h, w, h)
	b.WriteString("\n<title>A first look at banger, recorded in a terminal</title>\n")
	b.WriteString("<style>text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d8dee9}.p{fill:#a3be8c}.n{fill:#8892a4}</style>\n")
	fmt.Fprintf(&b, `<rect width="%g" height="%g" rx="8" fill="#1f2430"/>`+"\n", w, h)
	// All others begin with this one, so that all begin anew together.
	fmt.Fprintf(&b, `<rect width="0" height="0"><set id="a" attributeName="x" to="0" begin="0s;a.end" dur="%gs"/></rect>`+"\n", round(end+rest))
	for y, states := range rows {
		for _, s := range states {
			state(&b, s, y)
		}
	}
	b.WriteString("</svg>\n")
	if b.Len() > mostBytes {
		return nil, fmt.Errorf("the picture has %d bytes, more than %d", b.Len(), mostBytes)
	}
	return b.Bytes(), nil
}

// state writes what a row had for a while.
func state(b *bytes.Buffer, s shown, y int) {
	class, wide := "", len([]rune(s.text))
	switch {
	case strings.HasPrefix(s.text, prompt):
		class = ` class="p"`
	case s.to >= 0 || strings.HasPrefix(s.text, "banger: "):
		class = ` class="n"`
	}
	hidden, until := "", ""
	if s.to >= 0 { // where nothing moves it isn't shown
		hidden, until = ` visibility="hidden"`, fmt.Sprintf(` dur="%gs"`, round(s.to-s.from))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" textLength="%g"%s%s>`, margin, margin+fontSize+y*lineHigh, round(float64(wide)*cellWide), class, hidden)
	_ = xml.EscapeText(b, []byte(s.text)) // writes to memory
	if s.to < 0 {
		fmt.Fprintf(b, `<set attributeName="visibility" to="hidden" begin="a.begin" dur="%gs"/>`, max(0.01, round(s.from)))
	} else {
		fmt.Fprintf(b, `<set attributeName="visibility" to="visible" begin="a.begin+%gs"%s/>`, round(s.from), until)
	}
	b.WriteString("</text>\n")
}

func round(n float64) float64 { return math.Round(n*100) / 100 }

// play returns what each row had and when, the longest line in cells, and the time of
// the end.
func play(cast []byte) (rows [][]shown, wide int, end float64, err error) {
	all := bytes.Split(bytes.TrimSpace(cast), []byte("\n"))
	var head struct{ Width, Height int }
	if err := json.Unmarshal(all[0], &head); err != nil {
		return nil, 0, 0, err
	}
	t := terminal{rows: [][]rune{{}}}
	now, last := 0.0, 0.0
	for _, line := range all[1:] {
		var event []any
		if err := json.Unmarshal(line, &event); err != nil || len(event) != 3 {
			return nil, 0, 0, fmt.Errorf("no event: %s", line)
		}
		at, _ := event[0].(float64)
		data, _ := event[2].(string)
		now, last = now+min(longest, at-last), at
		before := fmt.Sprint(t.rows)
		if err := t.write(data); err != nil {
			return nil, 0, 0, err
		}
		if fmt.Sprint(t.rows) != before {
			rows = seen(rows, t.rows, now)
		}
	}
	if len(t.rows) > head.Height {
		return nil, 0, 0, fmt.Errorf("it scrolls: %d lines, of a terminal of %d", len(t.rows), head.Height)
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
		rows[y] = slices.DeleteFunc(states, func(s shown) bool { return s.text == "" })
		for _, s := range rows[y] {
			wide = max(wide, len([]rune(s.text)))
		}
	}
	return rows, wide, now, nil
}

// seen adds what the screen has now to what it had before.
func seen(rows [][]shown, screen [][]rune, now float64) [][]shown {
	for y, cells := range screen {
		if y == len(rows) {
			rows = append(rows, nil)
		}
		text := strings.TrimRight(string(cells), " ")
		n := len(rows[y])
		switch {
		case n > 0 && rows[y][n-1].text == text, n == 0 && text == "":
			continue
		case n > 0:
			rows[y][n-1].to = now
		}
		rows[y] = append(rows[y], shown{text: text, from: now, to: -1})
	}
	return rows
}

// terminal is a screen that grows downwards.
type terminal struct {
	rows [][]rune
	x    int // in the last row
}

func (t *terminal) write(data string) error {
	for rest := data; rest != ""; {
		row := &t.rows[len(t.rows)-1]
		if after, ok := strings.CutPrefix(rest, "\x1b[K"); ok {
			*row, rest = (*row)[:min(t.x, len(*row))], after
			continue
		}
		r := []rune(rest)[0]
		rest = rest[len(string(r)):]
		switch {
		case r == '\r':
			t.x = 0
		case r == '\n':
			t.rows, t.x = append(t.rows, []rune{}), 0
		case r < ' ':
			return fmt.Errorf("the sign %q isn't known here", r)
		default:
			for len(*row) <= t.x {
				*row = append(*row, ' ')
			}
			(*row)[t.x] = r
			t.x++
		}
	}
	return nil
}
