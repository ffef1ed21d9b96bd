package agent

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"

	"banger/guest"
)

// maxNotices is how many past notices a host is told when it begins to watch.
const maxNotices = 16

// watchers are the hosts that watch, and what they were told.
type watchers struct {
	mu      sync.Mutex // guards what follows
	told    []guest.Notice
	first   int64 // index of told[0]
	streams map[*watcher]bool
}

// watcher is one watch stream. watchers.mu guards it.
type watcher struct {
	confirmed int64         // the host has confirmed the notices before this index
	changed   chan struct{} // closed and renewed when confirmed moves, or the stream ends
	news      chan struct{} // one token: there is something to tell
}

// tell records a notice and waits until every host that watches has confirmed it.
func (w *watchers) tell(ctx context.Context, n guest.Notice) error {
	w.mu.Lock()
	w.told = append(w.told, n)
	if len(w.told) > maxNotices {
		w.told = w.told[1:]
		w.first++
	}
	end := w.first + int64(len(w.told))
	for s := range w.streams {
		s.wake()
	}
	for {
		var behind *watcher
		for s := range w.streams {
			if s.confirmed < end {
				behind = s
			}
		}
		if behind == nil {
			w.mu.Unlock()
			return nil
		}
		changed := behind.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.mu.Lock()
	}
}

func (s *watcher) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// serve tells one stream until it breaks.
func (w *watchers) serve(conn net.Conn, r io.Reader) {
	s := &watcher{changed: make(chan struct{}), news: make(chan struct{}, 1)}
	w.mu.Lock()
	if w.streams == nil {
		w.streams = make(map[*watcher]bool)
	}
	w.streams[s] = true
	next := w.first
	w.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		w.confirmations(s, r)
	}()
	defer func() {
		w.mu.Lock()
		delete(w.streams, s)
		close(s.changed)
		w.mu.Unlock()
		conn.Close()
		<-gone
	}()
	for {
		buf := w.since(&next)
		if len(buf) > 0 {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
		select {
		case <-s.news:
		case <-gone:
			return
		}
	}
}

// since returns the frames of the notices from an index on, and moves the index after
// them.
func (w *watchers) since(next *int64) (buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := max(*next, w.first); i < w.first+int64(len(w.told)); i++ {
		raw, err := json.Marshal(w.told[i-w.first])
		if err == nil && len(raw) <= guest.MaxData {
			buf = guest.AppendFrame(buf, guest.Frame{Type: guest.FrameNotice, Offset: i, Data: raw})
		}
		*next = i + 1
	}
	return buf
}

// confirmations takes what the host confirms until its side ends.
func (w *watchers) confirmations(s *watcher, r io.Reader) {
	frames := guest.NewFrameReader(r)
	for {
		f, err := frames.Next()
		if err != nil || f.Type != guest.FrameNoticeAck {
			return
		}
		w.mu.Lock()
		if f.Offset >= s.confirmed && f.Offset < w.first+int64(len(w.told)) {
			s.confirmed = f.Offset + 1
			close(s.changed)
			s.changed = make(chan struct{})
		}
		w.mu.Unlock()
	}
}
