package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"banger"
)

// progress shows how far an operation is. On a terminal it is one line, rewritten
// all the time and removed at the end. Elsewhere it is a line, without a bar, for
// every step that takes longer than slow.
type progress struct {
	a   *App
	tty bool

	mu    sync.Mutex // guards what follows
	last  banger.Event
	began time.Time // of the stage
	first int64     // bytes of the stage that were done at its first event
	spec  string    // what is made, to be printed before all else
	said  string    // the stage of the last line that was printed to stay
	timer *time.Timer
	drawn time.Time
	over  bool
}

const (
	slow   = 500 * time.Millisecond
	redraw = 200 * time.Millisecond
)

// waitsFor says, for each stage, what the operation is doing.
var waitsFor = map[string]string{
	"directory": "making the VM's directory",
	"disk":      "making its disk",
	"vmm":       "starting the hypervisor",
	"attach":    "attaching its disk",
	"network":   "making its network",
	"agent":     "waiting for the guest to answer",
	"boot":      "booting",
	"init":      "waiting for the image's init",
	"after":     "running the command in it",
	"freeze":    "freezing it",
	"stop":      "waiting for the guest to shut down",
	"image":     "making the image",
	"kernel":    "getting the kernel",
	"qemu":      "getting QEMU",
	"registry":  "asking the registry",
	"layers":    "fetching the image's layers",
	"archive":   "reading the archive",
	"change":    "reading the VM's disk",
	"layer":     "making a layer",
	"push":      "sending the image's layers",
	"write":     "writing the image",
	"index":     "reading the archive's index",
	"packages":  "fetching packages",
	"unpack":    "unpacking",
	"builder":   "starting the VM that configures packages",
	"configure": "configuring in a VM",
	"export":    "making the image",
	"workspace": "copying the files",
	"work":      "taking the work",
	"copy":      "copying",
}

func (a *App) progress(quiet bool) *progress {
	_, tty := a.view.canvas(a.Err)
	if quiet || a.json && !tty {
		return &progress{over: true}
	}
	return &progress{a: a, tty: tty}
}

// event is a banger.Progress.
func (p *progress) event(e banger.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if e.Stage == banger.StageSpec {
		if p.spec = specWords(e); p.tty {
			p.sayOnce()
		}
		return
	}
	if e.Stage == banger.StageNote {
		p.clear()
		tell(p.a, "%s\n", printable(e.Message, 1000))
		return
	}
	fresh := e.Stage != p.last.Stage
	moved := fresh || e.Message != p.last.Message && e.Unit == "" // with a unit, steps are counted
	if p.last = e; fresh {
		p.began, p.first = time.Now(), e.Done
	}
	switch {
	case p.tty && (fresh || time.Since(p.drawn) > redraw/4):
		p.draw()
	case !p.tty && (fresh || moved && p.said == e.Stage):
		p.after(slow, func() {
			p.sayOnce()
			p.said = p.last.Stage
			tell(p.a, "%s\n", step(p.last))
		})
	}
}

// draw rewrites the line, and does so again later if no event comes before.
func (p *progress) draw() {
	p.drawn = time.Now()
	w := p.a.view.page(p.a.Err)
	far := measured(p.last) + rest(p.last, p.first, time.Since(p.began))
	most := max(20, w.wide-1) // a line that wraps can't be rewritten
	drawn, room := "", 0
	if p.last.Total > 0 && most >= 20+1+barWide+len(far) {
		drawn, room = " "+p.bar(w), 1+barWide
	}
	name := cut(named(p.last), max(20, most-room-len(far)))
	_, _ = fmt.Fprintf(w, "\r\x1b[K%s%s%s", name, drawn, cut(far, max(0, most-room-cells(name))))
	p.after(redraw, p.draw)
}

// after calls do later, unless the progress has ended or after was called again.
func (p *progress) after(d time.Duration, do func()) {
	if p.timer != nil {
		p.timer.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over && p.timer == t {
			do()
		}
	})
	p.timer = t
}

// sayOnce prints what is being made, once, before anything else.
func (p *progress) sayOnce() {
	if p.spec != "" {
		tell(p.a, "%s\n", p.spec)
	}
	p.spec = ""
}

// aside tells a person something that stays, beside what is shown.
func (p *progress) aside(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.clear()
	tell(p.a, format+"\n", args...)
}

// clear removes what is shown.
func (p *progress) clear() {
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.tty && p.last.Stage != "" {
		_, _ = fmt.Fprint(p.a.Err, "\r\x1b[K")
	}
	p.last, p.timer = banger.Event{}, nil
}

// end removes what is shown; later events are ignored.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	p.clear()
}

// measured says how far an operation is with what it does at this moment.
func measured(e banger.Event) string {
	switch {
	case e.Total > 0 && e.Unit != "":
		return fmt.Sprintf(" %d of %d %s", e.Done, e.Total, printable(e.Unit, 20))
	case e.Total > 0:
		return fmt.Sprintf(" %d%% of %s", min(100, e.Done*100/e.Total), formatBytes(e.Total))
	case e.Done > 0:
		return " " + formatBytes(e.Done)
	}
	return ""
}

// step describes a step and its size, for a line that stays.
func step(e banger.Event) string {
	switch {
	case e.Total > 0 && e.Unit != "":
		e.Message = "" // the one it is at
		return fmt.Sprintf("%s (%d %s)", named(e), e.Total, printable(e.Unit, 20))
	case e.Total > 0:
		return fmt.Sprintf("%s (%s)", named(e), formatBytes(e.Total))
	}
	return named(e)
}

func named(e banger.Event) string {
	text := waitsFor[e.Stage]
	if text == "" {
		text = e.Stage
	}
	if e.Message != "" {
		text += ": " + printable(e.Message, 60)
	}
	return text
}

// barWide is how many columns a bar has.
const barWide = 22

// bar is how far the stage is. Not every terminal knows UTF-8.
func (p *progress) bar(w *page) string {
	of := func(most int64) int { return int(min(most, max(0, p.last.Done*most/p.last.Total))) }
	if n := of(barWide); w.color && p.a.view.utf8() {
		return w.paint(green, strings.Repeat("━", n)) + w.paint(faint, strings.Repeat("─", barWide-n))
	}
	n := of(barWide - 2)
	return "[" + w.paint(green, strings.Repeat("#", n)) + strings.Repeat(".", barWide-2-n) + "]"
}

// rest says how fast a stage goes on, and how long it will take or has taken.
func rest(e banger.Event, first int64, took time.Duration) string {
	done := e.Done - first
	switch {
	case took < time.Second:
		return ""
	case e.Total > 0 && done > 0 && e.Done < e.Total:
		left := time.Duration(float64(took) * float64(e.Total-e.Done) / float64(done))
		return rate(e, done, took) + ", " + age(left+time.Second/2) + " left"
	}
	return rate(e, done, took) + ", " + age(took)
}

// rate says how fast bytes come; what else is counted has none worth telling.
func rate(e banger.Event, done int64, took time.Duration) string {
	if e.Unit != "" || done <= 0 {
		return ""
	}
	return ", " + formatBytes(int64(float64(done)/took.Seconds())) + "/s"
}
