// Package clienttest is the client that docs/client.md makes, in Python, for tests of what
// programs do with it. It knows nothing of daemons and VMs: a test gives a socket.
package clienttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// PageCode writes the code of docs/client.md into a directory: the client that the page
// makes, as banger.py, and how it is used, as use.py.
func PageCode(t *testing.T) (dir string) {
	t.Helper()
	var page []byte
	err := os.ErrNotExist
	for up := "."; err != nil && len(up) < 20; up = filepath.Join(up, "..") { // tests run in their packages' directories
		page, err = os.ReadFile(filepath.Join(up, "docs/client.md"))
	}
	if err != nil {
		t.Fatal(err)
	}
	client, use, ok := strings.Cut(string(page), "\n## Use it\n")
	if !ok {
		t.Fatal("docs/client.md doesn't say how the client is used")
	}
	dir = t.TempDir()
	for name, text := range map[string]string{"banger.py": client, "use.py": use} {
		var code strings.Builder
		for _, block := range strings.Split(text, "\n```python\n")[1:] {
			block, _, _ = strings.Cut(block, "\n```")
			code.WriteString(block + "\n\n")
		}
		if code.Len() == 0 {
			t.Fatalf("docs/client.md has no code for %s", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(code.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Python runs a program that uses the page's client, with Python's standard library alone.
// Its environment is env.
func Python(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	exe, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	cmd := exec.Command(exe, append([]string{"-B", "-S"}, args...)...) // -S: no packages of the site's
	cmd.Env = append(slices.Clone(env), "PYTHONPATH="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
	return string(out)
}
