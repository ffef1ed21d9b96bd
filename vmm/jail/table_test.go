package jail

import (
	"flag"
	"os"
	"strings"
	"testing"

	"banger/vmm/jail/attack"
)

var writeTable = flag.Bool("write-table", false, "write what was tried, and what came of it, into docs/jail.md")

const page = "../../docs/jail.md"

// docs/jail.md has all that is tried. What came of it depends on the kernel: it has that of one.
func TestTable(t *testing.T) {
	_, inside := judge(t, "", nil)
	_, open := judge(t, "system calls", nil)
	if len(inside) != len(open) || len(inside) == 0 {
		t.Fatalf("%d attempts, and %d without a filter", len(inside), len(open))
	}
	now := attack.Table([]string{"in the jail", "without its list of system calls"}, inside, open)
	data, err := os.ReadFile(page)
	if os.IsNotExist(err) {
		t.Skip("run without the sources")
	}
	const begin, end = "<!-- made by `go test ./vmm/jail -run TestTable -write-table` -->\n", "<!-- end of the table -->\n"
	head, rest, ok := strings.Cut(string(data), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for it", page)
	}
	if *writeTable {
		if err := os.WriteFile(page, []byte(head+begin+now+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if tried(was) != tried(now) {
		t.Errorf("%s doesn't say what is tried:\n%s", page, now)
	}
}

// tried leaves only the first two columns.
func tried(table string) string {
	var s strings.Builder
	for line := range strings.Lines(table) {
		if f := strings.Split(line, "|"); len(f) > 3 {
			s.WriteString(strings.Join(f[:3], "|") + "\n")
		}
	}
	return s.String()
}
