package tests_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/test/clienttest"
)

// The page that says how to write a client makes one that works.
func TestClientPage(t *testing.T) {
	socket, _ := newGuest(t)
	dir := clienttest.PageCode(t)
	out := clienttest.Python(t, dir, os.Environ(), filepath.Join(dir, "use.py"), socket)
	for _, want := range []string{"\nspec ", " running\n", "\n5\n 0\n", "\nweb running\n", "\ndev running\n", "\nnot_found no VM \"dev\"\n"} {
		if !strings.Contains("\n"+out, want) {
			t.Errorf("it doesn't say %q: %s", want, out)
		}
	}
}

func TestPythonClient(t *testing.T) {
	socket, _ := newGuest(t)
	clienttest.Python(t, clienttest.PageCode(t), os.Environ(), "testdata/client.py", socket, t.TempDir())
}
