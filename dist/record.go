package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/creack/pty"
)

// session is what a first look types. Each command must succeed.
var session = []string{
	"banger run --rm -- uname -a",
	"git init -q hello && echo 'echo it works on $(uname -n)' > hello/test.sh && git -C hello add test.sh",
	"banger run --name lab ./hello -- sh test.sh",
	"banger ps",
	"banger exec lab cat /etc/debian_version",
	"banger rm lab",
}

// The terminal that is recorded, and how fast its user types.
const (
	columns, lines = 110, 28
	keystroke      = 45 * time.Millisecond
	prompt         = "$ "
)

// recording is what the README's picture is drawn from.
const recording = "docs/first-look.cast"

func writeRecording() error {
	text, err := record(session)
	if err != nil {
		return err
	}
	if err := os.WriteFile(recording, text, 0o644); err != nil {
		return err
	}
	return writePicture()
}

// record types the session into a real shell in an empty directory and returns
// all that its terminal showed, when it did: an asciicast of version 2
// (docs.asciinema.org/manual/asciicast/v2).
func record(typed []string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "banger-recording-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.Command("sh", "-ie") // -e: it ends with the first command that fails
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PS1="+prompt, "TERM=xterm-256color", "ENV=", "GIT_CONFIG_GLOBAL=/dev/null")
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: columns, Rows: lines})
	if err != nil {
		return nil, err
	}
	defer func() { _ = screen.Close() }()
	c := &cast{began: time.Now(), from: screen}
	c.line(map[string]any{"version": 2, "width": columns, "height": lines, "timestamp": c.began.Unix(), "title": "banger: a first look"})
	for _, command := range typed {
		if err := c.until(prompt); err != nil {
			return nil, fmt.Errorf("before %q: %w", command, err)
		}
		for _, key := range command {
			time.Sleep(keystroke)
			if _, err := io.WriteString(screen, string(key)); err != nil {
				return nil, err
			}
			if err := c.until(""); err != nil { // its echo
				return nil, err
			}
		}
		time.Sleep(keystroke)
		if _, err := io.WriteString(screen, "\r"); err != nil { // what it echoes may come with all that follows
			return nil, err
		}
	}
	if err := c.until(prompt); err != nil {
		return nil, fmt.Errorf("the last command: %w", err)
	}
	_, _ = io.WriteString(screen, "exit\r")
	_, _ = io.Copy(io.Discard, screen) // ends with EIO as the terminal does
	return c.text.Bytes(), cmd.Wait()
}

// cast is a recording that goes on.
type cast struct {
	began time.Time
	from  io.Reader
	text  bytes.Buffer
}

func (c *cast) line(v any) {
	data, _ := json.Marshal(v) // of strings and numbers alone
	c.text.Write(append(data, '\n'))
}

// until records what is shown until it ends with some text; without any, what
// comes next.
func (c *cast) until(end string) error {
	buf, seen := make([]byte, 32<<10), ""
	for {
		n, err := c.from.Read(buf)
		if n > 0 {
			c.line([]any{float64(time.Since(c.began).Milliseconds()) / 1000, "o", string(buf[:n])})
		}
		if err != nil {
			return errors.Join(errors.New("a command failed"), err)
		}
		if seen += string(buf[:n]); strings.HasSuffix(seen, end) {
			return nil
		}
	}
}
