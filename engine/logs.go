package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
)

// The console log and its predecessor, in the VM's directory.
const (
	consoleName = "console.log"
	olderName   = "console.log.1"
	lookTime    = 100 * time.Millisecond // between looks at a log that is followed
)

// Logs copies the console log, oldest kept byte first.
func (e *Engine) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	dir := e.dir(r.vm.ID)
	l := &console{ctx: ctx, path: filepath.Join(dir, consoleName)}
	if follow {
		l.live = func() bool {
			switch e.seen(r).State {
			case banger.Starting, banger.Running, banger.Stopping:
				return true
			}
			return false
		}
	}
	if l.file, err = os.Open(filepath.Join(dir, olderName)); errors.Is(err, fs.ErrNotExist) {
		err = l.next()
	}
	if err != nil {
		return nil, surface("", "read the console of vm "+ref, err)
	}
	return l, nil
}

// console reads the older log, then the current one, and goes on while live
// says so. The log is rotated by renaming: whoever has the old one open reads
// it to its end before the new one.
type console struct {
	ctx  context.Context
	path string
	file *os.File    // nil: no log has been begun yet
	live func() bool // nil: don't follow
}

// Read returns what there is, waiting for more when the log is followed.
func (c *console) Read(p []byte) (int, error) {
	for {
		alive := c.live != nil && c.live() // before the look: what comes after is seen next time
		if c.file != nil {
			if n, err := c.file.Read(p); n > 0 || err != io.EOF {
				return n, err
			}
		}
		moved, err := c.moved()
		if err != nil {
			return 0, err
		}
		switch {
		case moved:
			continue
		case !alive:
			return 0, io.EOF
		}
		select {
		case <-c.ctx.Done():
			return 0, io.EOF
		case <-time.After(lookTime):
		}
	}
}

// moved opens the current log when what was read so far is another file.
func (c *console) moved() (bool, error) {
	now, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.file != nil {
		had, err := c.file.Stat()
		if err != nil || os.SameFile(had, now) {
			return false, err
		}
	}
	return true, c.next()
}

func (c *console) next() error {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.file != nil {
		c.file.Close()
	}
	c.file = f
	return nil
}

// Close ends the reading.
func (c *console) Close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

// tail returns the last lines of the console for an error's hint. A guest wrote
// them: only what prints is passed on.
func tail(dir string) string {
	const most = 600
	f, err := os.Open(filepath.Join(dir, consoleName))
	if err != nil {
		return "(there is none)"
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return "(it can't be read)"
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "(it can't be read)"
	}
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r < 0x7f {
			return r
		}
		return -1
	}, string(bytes.TrimSpace(raw)))
	if clean == "" {
		return "(it is empty)"
	}
	return clean
}
