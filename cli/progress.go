package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"banger"
)

// progress shows how an operation comes along. On a terminal it is one line,
// rewritten and at last removed; elsewhere a line for every stage that takes
// longer than slow, so that quick things are silent.
type progress struct {
	w   io.Writer
	tty bool

	mu    sync.Mutex // guards what follows
	stage string
	timer *time.Timer
	drawn time.Time
	over  bool
}

const slow = 500 * time.Millisecond

func (a *App) progress(quiet bool) *progress {
	if quiet || a.json {
		return &progress{over: true}
	}
	_, tty := terminal(a.Err)
	return &progress{w: a.Err, tty: tty}
}

// event is a banger.Progress.
func (p *progress) event(e banger.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	text := describe(e)
	fresh := e.Stage != p.stage
	p.stage = e.Stage
	if p.tty {
		if now := time.Now(); fresh || now.Sub(p.drawn) > 50*time.Millisecond {
			p.drawn = now
			_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		}
		return
	}
	if !fresh {
		return
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(slow, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over && p.stage == e.Stage {
			_, _ = fmt.Fprintf(p.w, "banger: %s\n", text)
		}
	})
}

// end removes what is shown; later events are ignored.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.tty && p.stage != "" {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func describe(e banger.Event) string {
	text := e.Stage
	if e.Message != "" {
		text += ": " + printable(e.Message, 60)
	}
	switch {
	case e.Total > 0:
		text += fmt.Sprintf(" %d%%", min(100, e.Done*100/e.Total))
	case e.Done > 0:
		text += " " + formatBytes(e.Done)
	}
	return text
}

// printable makes text that may come from a guest or an archive safe for a
// terminal: one line, no control characters, at most most characters.
func printable(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

func formatBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit && exp < 4; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTP"[exp])
}
