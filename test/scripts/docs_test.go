package tests_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docScripts makes scripts of the pages whose commands are promised to work: every
// sh block, in order, as a user with a kernel and an image would type it.
func docScripts(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	var scripts []string
	for _, page := range []string{"tutorial", "howto"} {
		text, err := os.ReadFile(filepath.Join("../../docs", page+".md"))
		if err != nil {
			t.Fatal(err)
		}
		// uninstall must not take away what other scripts share.
		script, files := "env XDG_CACHE_HOME=$WORK/cache\ninstall\n", ""
		blocks := strings.Split(string(text), "\n```sh\n")[1:]
		for i, block := range blocks {
			code, _, closed := strings.Cut(block, "\n```")
			if !closed {
				t.Fatalf("%s.md: block %d has no end", page, i+1)
			}
			if strings.Contains(code, "run --rm . --") {
				script += "[qemu] " // the guests in memory have no /root of their own
			}
			if *host != "qemu" { // they share the host's files, and another user's test has the same names
				code = strings.ReplaceAll(code, "/tmp/", dir+"/")
			}
			script += fmt.Sprintf("exec sh -eux %d.sh\n", i)
			files += fmt.Sprintf("-- %d.sh --\n%s\n", i, code)
		}
		if len(blocks) < 3 {
			t.Fatalf("%s.md has %d blocks", page, len(blocks))
		}
		path := filepath.Join(dir, page+".txtar")
		if err := os.WriteFile(path, []byte(script+files), 0o600); err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, path)
	}
	return scripts
}
