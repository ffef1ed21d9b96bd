package take_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"banger/guest/work"
	"banger/workspace/take"
)

// A directory that is read has as many entries as it says, and none that a file system
// would take for something else.
func FuzzTree(f *testing.F) {
	id := strings.Repeat("i", 20)
	f.Add([]byte("100644 a\x00"+id+"40000 d\x00"+id), 20)
	f.Add([]byte("100644 .git\x00"+id), 20)
	f.Add([]byte("40000 \x00"+id+id), 32)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		if width != 32 {
			width = 20
		}
		below, entries, err := take.ParseTree(data, width)
		if err != nil {
			return
		}
		if int64(len(below)) > entries || entries*int64(width+8) > int64(len(data)) {
			t.Errorf("%d directories, %d entries in %d bytes", len(below), entries, len(data))
		}
		for _, b := range below {
			if len(b) != 2*width {
				t.Errorf("a directory called %q", b)
			}
		}
		if bytes.Contains(data, []byte(" .git\x00")) && bytes.Count(data, []byte{0}) == 1 {
			t.Error("a file is called .git")
		}
	})
}

// The first line is read whatever it is, and never more than its bound.
func FuzzHead(f *testing.F) {
	text, _ := json.Marshal(work.Head{Git: true, Head: "x", Nested: []string{"a"}})
	f.Add(append(text, '\n'))
	f.Add([]byte("{}\n"))
	f.Add([]byte("[1,2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(data), work.MaxHead)
		h, err := take.ReadHead(in)
		if err != nil {
			return
		}
		if _, err := json.Marshal(h); err != nil {
			t.Error(err)
		}
		if !bytes.ContainsRune(data[:min(len(data), work.MaxHead)], '\n') {
			t.Error("a line without an end is read")
		}
	})
}

// What git lists is read, whatever it says.
func FuzzRaw(f *testing.F) {
	f.Add(":100644 100644 a b M\x00file\x00:100644 100755 a b R100\x00old\x00new\x00")
	f.Add(":\x00\x00")
	f.Fuzz(func(t *testing.T, out string) {
		for _, c := range take.ParseRaw(out) {
			if c.OldMode == "000000" || c.NewMode == "000000" {
				t.Errorf("%+v", c)
			}
		}
	})
}

func TestExecutes(t *testing.T) {
	for name, want := range map[string]bool{
		".envrc": true, "sub/.ENVRC": true, ".github/workflows/x.yml": true, "a/.github/workflows/x.yml": true, ".github/README": false, ".vscode/tasks.json": true,
		"main.go": false, "Makefile": false, ".husky/pre-commit": true, "x.code-workspace": true, ".gitattributes": true, "sub/.gitmodules": true, "envrc": false, ".gitlab-ci.yml": true,
	} {
		if got := take.Why(name); (got != "") != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for link, want := range map[[2]string]bool{
		{"l", "a"}: false, {"l", "/a"}: true, {"d/l", "../a"}: false, {"d/l", "../../a"}: true, {"l", ".git/config"}: true, {"l", "d/../.."}: true, {"d/l", ".."}: false,
	} {
		if got := take.LeadsOut(link[0], link[1]); got != want {
			t.Errorf("%q: %v", link, got)
		}
	}
}
