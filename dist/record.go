package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/creack/pty"
)

// recording is what the README's picture is drawn from.
const recording = "docs/first-look.cast"

// key is something to type, when the screen ends with what is awaited: a prompt where
// await is empty.
type key struct{ await, typed string }

// session is what a first look types. Each command must succeed.
var session = []key{
	{"", "banger run --rm -- uname -a"},
	{"", "git init -q hello && echo 'echo it works on $(uname -n)' > hello/test.sh && git -C hello add test.sh"},
	{"", "banger run --name lab ./hello -- sh test.sh"},
	{"", "banger ps"},
	{"", "banger exec lab cat /etc/debian_version"},
	{"", "banger rm lab"},
}

// shot is a picture of docs/screenshots.md: what a terminal shows at one moment.
type shot struct {
	name   string // of the file, docs/screenshots/NAME.svg
	before string // what a shell does before, which nobody sees
	typed  []key
	shows  string // an expression; the moment is the last at which the screen fits it
	wide   int
	high   int
	fails  bool // commands may, else none may
}

// shots are taken in this order, in a home where nothing of banger was before.
var shots = []shot{
	{"first-run", "", []key{{"", "banger run --rm -- cat /etc/debian_version"}, {`\[Y/n\] `, "y"}}, `(?s)\[Y/n\] y.*[━#].* left`, 110, 14, false},
	{"doctor", "", []key{{"", "banger doctor"}}, `VMs can run`, 96, 64, false},
	{"ps", `mkdir empty && banger run -q --name web -d empty -- sleep 1000 && banger vm create -q --name nightly --ttl 2h && banger vm create -q --name agent --idle-stop 30m && banger vm create -q --name old --no-start`,
		[]key{{"", "banger ps"}, {"", "banger command list"}}, `sleep 1000\n`, 96, 14, false},
	{"stats", "", []key{{"", "banger vm stats --watch"}, {`\d%.*\n.*\d%(.*\n)+`, "\x03"}}, `\d%[^^]*$`, 96, 8, false},
	{"errors", "", []key{{"", "banger exec wbe ls"}, {"", "banger run alpine"}, {"", "banger vm pause web"}, {"", "banger vm set nightly --memory lots"}}, `lots`, 100, 22, true},
}

// The terminal of the first look, and how fast its user types.
const (
	columns, lines = 110, 28
	keystroke      = 45 * time.Millisecond
	prompt         = "$ "
)

// writeRecording takes all pictures, in a new home: kernel and image are fetched and
// made for the first one, which takes some minutes.
func writeRecording() error {
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(home) }()
	defer func() { _ = shell(home, "banger uninstall --purge --force").Run() }()
	for _, s := range shots {
		if out, err := shell(home, s.before).CombinedOutput(); err != nil {
			return fmt.Errorf("before %s: %w: %s", s.name, err, out)
		}
		text, err := record(home, s.typed, s.wide, s.high, s.fails)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		svg, err := still(text, regexp.MustCompile(s.shows), "banger: "+strings.ReplaceAll(s.name, "-", " "))
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := os.WriteFile(s.file(), svg, 0o644); err != nil {
			return err
		}
	}
	if out, err := shell(home, "banger rm -f $(banger ps -q)").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	text, err := record(home, session, columns, lines, false)
	if err != nil {
		return err
	}
	if err := os.WriteFile(recording, text, 0o644); err != nil {
		return err
	}
	return writePicture()
}

func (s shot) file() string { return "docs/screenshots/" + s.name + ".svg" }

// shell is one at home there, in a terminal with colours.
func shell(home, script string) *exec.Cmd {
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = home
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "XDG_") && !strings.HasPrefix(name, "LC_") && name != "NO_COLOR" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+home, "PS1="+prompt, "TERM=xterm-256color", "LANG=C.UTF-8", "ENV=", "GIT_CONFIG_GLOBAL=/dev/null")
	return cmd
}

// record types keys into a real shell and returns all that its terminal showed, when it
// did: an asciicast of version 2 (docs.asciinema.org/manual/asciicast/v2).
func record(home string, keys []key, wide, high int, fails bool) ([]byte, error) {
	cmd := shell(home, "")
	cmd.Args = []string{"sh", "-ie"} // -e: it ends with the first command that fails
	if fails {
		cmd.Args[1] = "-i"
	}
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: uint16(wide), Rows: uint16(high)})
	if err != nil {
		return nil, err
	}
	defer func() { _ = screen.Close() }()
	c := &cast{began: time.Now(), from: screen}
	c.line(map[string]any{"version": 2, "width": wide, "height": high, "timestamp": c.began.Unix(), "title": "banger: a first look"})
	atPrompt := regexp.MustCompile(`(^|\n|\^C)` + regexp.QuoteMeta(prompt) + `$`)
	for _, k := range keys {
		await := atPrompt
		if k.await != "" {
			await = regexp.MustCompile(k.await + "$")
		}
		if err := c.until(await); err != nil {
			return nil, fmt.Errorf("before %q: %w", k.typed, err)
		}
		if k.typed < " " { // no echo of its own
			if _, err := io.WriteString(screen, k.typed); err != nil {
				return nil, err
			}
			continue
		}
		for _, letter := range k.typed {
			time.Sleep(keystroke)
			if _, err := io.WriteString(screen, string(letter)); err != nil {
				return nil, err
			}
			if err := c.until(nil); err != nil { // its echo
				return nil, err
			}
		}
		time.Sleep(keystroke)
		if _, err := io.WriteString(screen, "\r"); err != nil { // what it echoes may come with all that follows
			return nil, err
		}
	}
	if err := c.until(atPrompt); err != nil {
		return nil, fmt.Errorf("the last command: %w", err)
	}
	_, _ = io.WriteString(screen, "exit 0\r")
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

// until records what is shown until that fits an expression; without any, what comes
// next.
func (c *cast) until(end *regexp.Regexp) error {
	buf, seen := make([]byte, 32<<10), ""
	for {
		n, err := c.from.Read(buf)
		if n > 0 {
			c.line([]any{float64(time.Since(c.began).Milliseconds()) / 1000, "o", string(buf[:n])})
		}
		if err != nil {
			return errors.Join(errors.New("a command failed"), err)
		}
		seen += string(buf[:n])
		if seen = seen[max(0, len(seen)-(64<<10)):]; end == nil || end.MatchString(strings.ReplaceAll(seen, "\r", "")) {
			return nil
		}
	}
}
