package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// A recording holds what was typed and what came of it, in order; one of a command
// that fails isn't made.
func TestRecord(t *testing.T) {
	if _, err := record(t.TempDir(), []key{{"", "echo one"}, {"", "false"}, {"", "echo three"}}, columns, lines, false); err == nil || !strings.Contains(err.Error(), "echo three") {
		t.Errorf("a failed command: %v", err)
	}
	home := t.TempDir()
	text, err := record(home, []key{{"", "echo a$((1+1))b; read answer"}, {"b\n", "no"}, {"", "pwd"}}, columns, lines, false)
	if err != nil {
		t.Fatal(err)
	}
	shown := played(t, text)
	if want := "$ echo a$((1+1))b; read answer\r\na2b\r\nno\r\n$ pwd\r\n" + home + "\r\n$ "; !strings.HasSuffix(shown, want) {
		t.Errorf("%q, want %q", shown, want)
	}
}

// The recording that is in the tree is one of the session as it is.
func TestRecording(t *testing.T) {
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	shown := played(t, text)
	for _, k := range session {
		if !strings.Contains(shown, prompt+k.typed) {
			t.Errorf("%s doesn't show %q: make recording", recording, k.typed)
		}
	}
}

func played(t *testing.T, text []byte) string {
	t.Helper()
	var shown strings.Builder
	last := 0.0
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		var head struct{ Version, Width, Height int }
		if i == 0 {
			if err := json.Unmarshal([]byte(line), &head); err != nil || head.Version != 2 || head.Width != columns || head.Height != lines {
				t.Errorf("%+v, %v", head, err)
			}
			continue
		}
		var event []any
		if err := json.Unmarshal([]byte(line), &event); err != nil || len(event) != 3 {
			t.Fatalf("%s: %v", line, err)
		}
		at, _ := event[0].(float64)
		data, _ := event[2].(string)
		if at < last || event[1] != "o" {
			t.Errorf("at %v after %v: %s", at, last, line)
		}
		last = at
		shown.WriteString(data)
	}
	return shown.String()
}
