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
	if _, err := record([]string{"echo one", "false", "echo three"}); err == nil || !strings.Contains(err.Error(), "echo three") {
		t.Errorf("a failed command: %v", err)
	}
	text, err := record([]string{"echo a$((1+1))b", "pwd"})
	if err != nil {
		t.Fatal(err)
	}
	shown := played(t, text)
	if !strings.Contains(shown, "$ echo a$((1+1))b\r\na2b\r\n$ pwd\r\n/tmp") && !strings.Contains(shown, "a2b\r\n$ pwd\r\n"+os.TempDir()) {
		t.Errorf("%q", shown)
	}
}

// The recording that is in the tree is one of the session as it is.
func TestRecording(t *testing.T) {
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	shown := played(t, text)
	for _, command := range session {
		if !strings.Contains(shown, prompt+command) {
			t.Errorf("%s doesn't show %q: make recording", recording, command)
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
