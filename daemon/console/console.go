// Package console reads the log of a VM's serial console: two files in the VM's
// directory, rotated by renaming, with no gap between them.
//
// It knows nothing of who writes the log, when it is rotated, or what a VM is: its caller
// says whether more may come.
package console

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
)

// The log and its predecessor.
const (
	name  = "console.log"
	older = "console.log.1"
	look  = 100 * time.Millisecond // between looks at a log that is followed
)

// Open reads the log in dir from the oldest byte that is kept. With live it goes on until
// live returns false or ctx ends; with nil it ends with what is there now. A missing log is
// an empty one.
func Open(ctx context.Context, dir string, live func() bool) (io.ReadCloser, error) {
	l := &log{ctx: ctx, path: filepath.Join(dir, name), live: live}
	f, err := os.Open(filepath.Join(dir, older))
	if errors.Is(err, fs.ErrNotExist) {
		return l, l.next()
	}
	l.file = f
	return l, err
}

// log reads the older log, then the current one, and goes on while live returns true. When
// the log is rotated meanwhile, it reads the open file to its end before the new one.
type log struct {
	ctx  context.Context
	path string
	file *os.File    // nil: no log has been begun yet
	live func() bool // nil: don't follow
}

// Read returns what there is, waiting for more when the log is followed.
func (c *log) Read(p []byte) (int, error) {
	for {
		alive := c.live != nil && c.live() // asked before reading: what is written after that is read next time
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
		case <-time.After(look):
		}
	}
}

// moved opens the current log if it isn't the open file any more.
func (c *log) moved() (bool, error) {
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

func (c *log) next() error {
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
func (c *log) Close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

// Tail returns the last lines for an error's hint, without control characters, as a guest
// wrote them.
func Tail(dir string) string {
	const most = 600
	f, err := os.Open(filepath.Join(dir, name))
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
