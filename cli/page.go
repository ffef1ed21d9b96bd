package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// page is what a command writes on: it knows how wide it is and whether it has
// colours, and keeps the first error of what is written to it.
type page struct {
	w     io.Writer
	wide  int // columns; 0: as many as it takes, as it is no terminal
	color bool
	err   error
}

// view is how the caller sees what is written: the terminal, the locale, what they want.
type view struct {
	color  coloring                    // --color
	term   string                      // the terminal's type
	getenv func(string) (string, bool) // reads the environment; nil: there is none
}

// page is a page of a stream that the caller gave.
func (v *view) page(w io.Writer) *page {
	p := &page{w: w}
	fd, tty := terminal(w)
	if tty {
		p.wide = int(sizeOf(fd).Cols)
	}
	switch v.color {
	case always:
		p.color = true
	case never:
	default:
		p.color = tty && v.moves() && v.env("NO_COLOR") == "" // no-color.org
	}
	return p
}

// widest is how wide a text may be that is to be read.
const widest = 100

// across is how wide a text may be here.
func (p *page) across() int { return min(widest, cmp.Or(p.wide, widest)) }

// moves reports whether the caller's terminal knows more than lines of text.
func (v *view) moves() bool { return v.term != "" && v.term != "dumb" }

// canvas returns f's file descriptor if it is a terminal on which lines can be
// written anew.
func (v *view) canvas(f any) (fd int, ok bool) {
	fd, ok = terminal(f)
	return fd, ok && v.moves()
}

// utf8 reports whether the caller's terminal writes UTF-8, by its locale (locale(7)).
func (v *view) utf8() bool {
	name := strings.ToLower(cmp.Or(v.env("LC_ALL"), v.env("LC_CTYPE"), v.env("LANG")))
	return strings.Contains(name, "utf-8") || strings.Contains(name, "utf8")
}

// env is a variable of the caller's environment, "" where there is none.
func (v *view) env(key string) string {
	if v.getenv == nil {
		return ""
	}
	if value, ok := v.getenv(key); ok {
		return value
	}
	return ""
}

// coloring is the value of --color.
type coloring string

const (
	auto   coloring = "auto"
	always coloring = "always"
	never  coloring = "never"
)

// String implements pflag.Value.
func (c *coloring) String() string { return string(*c) }

// Type implements pflag.Value.
func (c *coloring) Type() string { return "when" }

// Set implements pflag.Value.
func (c *coloring) Set(text string) error {
	switch v := coloring(text); v {
	case auto, always, never:
		*c = v
		return nil
	}
	return fmt.Errorf("it is auto, always or never")
}

func (c *coloring) add(root *cobra.Command, fs *pflag.FlagSet) {
	*c = auto
	fs.Var(c, "color", "colors: auto (on a terminal, unless NO_COLOR is set), always or never")
	_ = root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{string(auto), string(always), string(never)}, cobra.ShellCompDirectiveNoFileComp))
}

// Write implements io.Writer.
func (p *page) Write(data []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.w.Write(data)
	p.err = err
	return n, err
}

// fault is the first error. A reader who has left was told enough.
func (p *page) fault() error {
	if p.err == nil || errors.Is(p.err, syscall.EPIPE) {
		return p.err
	}
	return banger.Errorf(banger.CodeUnavailable, "standard output: %w", p.err)
}

// tone is how a text looks where there are colours: parameters of ECMA-48's SGR.
type tone string

const (
	plain  tone = ""
	bold   tone = "1"
	faint  tone = "2"
	red    tone = "31"
	green  tone = "32"
	yellow tone = "33"
	cyan   tone = "36"
	alarm  tone = "1;31"
)

// paint returns a text in a tone.
func (p *page) paint(t tone, text string) string {
	if !p.color || t == plain || text == "" {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

// commands returns a text with the commands in it, which stand between backticks, in a
// tone of their own.
func (p *page) commands(text string) string {
	parts := strings.Split(text, "`")
	if !p.color || len(parts)%2 == 0 {
		return text
	}
	for i := 1; i < len(parts); i += 2 {
		parts[i] = p.paint(cyan, "`"+parts[i]+"`")
	}
	return strings.Join(parts, "")
}

// toneOf is the tone of a word that says how something is.
func toneOf(status string) tone {
	switch word, _, _ := strings.Cut(status, " "); word {
	case "running", "succeeded", "yes", "ok":
		return green
	case "creating", "starting", "stopping", "deleting", "canceled", "orphaned", "WARN", "signal", "unused":
		return yellow
	case "failed", "FAIL", "out":
		return red
	case "exit":
		if status != "exit 0" {
			return red
		}
	case "stopped", "owned":
		return faint
	case "note":
		return cyan
	}
	return plain
}

// column is one of a table.
type column struct {
	title string
	rank  int  // on a narrow page, the column with the highest is left out first; 0 stays
	least int  // before that, cells are cut to no less than this; 0: they stay whole
	says  bool // cells say how something is, and have its tone
}

// gap is between two columns.
const gap = 2

// table writes aligned columns, in the room that there is.
func (p *page) table(columns []column, rows [][]string) {
	wide := make([]int, len(columns))
	for i, c := range columns {
		wide[i] = cells(c.title)
		for _, row := range rows {
			wide[i] = max(wide[i], cells(row[i]))
		}
	}
	if p.wide > 0 {
		fit(columns, wide, p.wide)
	}
	last := -1
	for i, w := range wide {
		if w > 0 {
			last = i
		}
	}
	line := func(cell func(i int) (tone, string)) {
		var b strings.Builder
		for i, w := range wide {
			if w == 0 {
				continue
			}
			t, text := cell(i)
			text = cut(text, w)
			b.WriteString(p.paint(t, text))
			if i != last {
				b.WriteString(strings.Repeat(" ", w-cells(text)+gap))
			}
		}
		text := b.String()
		if !p.color {
			text = strings.TrimRight(text, " ")
		}
		_, _ = fmt.Fprintln(p, text)
	}
	line(func(i int) (tone, string) { return bold, columns[i].title })
	for _, row := range rows {
		line(func(i int) (tone, string) {
			if columns[i].says {
				return toneOf(row[i]), row[i]
			}
			return plain, row[i]
		})
	}
}

// fit narrows columns until they have room in most, if they can. One that is left out
// is 0 wide.
func fit(columns []column, wide []int, most int) {
	for {
		over := -gap - most
		for _, w := range wide {
			if w > 0 {
				over += w + gap
			}
		}
		if over <= 0 {
			return
		}
		widest, lowest := -1, -1 // of those that can be cut, and left out
		for i, c := range columns {
			if c.least > 0 && wide[i] > max(c.least, cells(c.title)) && (widest < 0 || wide[i] > wide[widest]) {
				widest = i
			}
			if c.rank > 0 && wide[i] > 0 && (lowest < 0 || c.rank > columns[lowest].rank) {
				lowest = i
			}
		}
		switch {
		case widest >= 0:
			wide[widest] = max(wide[widest]-over, columns[widest].least, cells(columns[widest].title))
		case lowest >= 0:
			wide[lowest] = 0
		default:
			return
		}
	}
}

// fields writes names and values, a pair a line. What is longer than the page goes on
// below itself.
func (p *page) fields(rows [][]string) {
	wide := 0
	for _, row := range rows {
		wide = max(wide, cells(row[0]))
	}
	for _, row := range rows {
		lines := []string{row[1]}
		if p.wide > 0 {
			lines = wrap(row[1], max(20, p.wide-wide-gap))
		}
		for i, line := range lines {
			name := ""
			if i == 0 {
				name = row[0]
			}
			if row[0] == "state" || row[0] == "status" || row[0] == "running" {
				line = p.paint(toneOf(line), line)
			}
			_, _ = fmt.Fprintf(p, "%s%s%s\n", p.paint(faint, name), strings.Repeat(" ", wide-cells(name)+gap), line)
		}
	}
}

// say writes a text behind some columns that say what it is about, and goes on below
// itself where the page is narrow.
func (p *page) say(t tone, first, text string) {
	lines := []string{text}
	if p.wide > 0 {
		lines = wrap(text, max(20, p.wide-cells(first)))
	}
	_, _ = fmt.Fprintln(p, p.paint(t, first)+p.commands(strings.Join(lines, "\n"+strings.Repeat(" ", cells(first)))))
}

// cells is how many columns a terminal needs for a text, or more: letters that some
// terminals draw twice as wide count twice, and so do others beside them.
func cells(text string) int {
	n := 0
	for _, r := range text {
		if n++; r >= 0x1100 {
			n++
		}
	}
	return n
}

// cut shortens a text to at most so many columns, and marks that.
func cut(text string, most int) string {
	if cells(text) <= most {
		return text
	}
	for cells(text) > max(0, most-3) {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text + "..."[:min(3, most)] // not every terminal knows UTF-8
}

// wrap breaks a text into lines of at most wide columns, where words allow it.
func wrap(text string, wide int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && cells(line)+1+cells(word) > wide {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
