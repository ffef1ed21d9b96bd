package take_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"banger/workspace/send"
)

var large = flag.Bool("large", false, "50,000 files and 1 GB of history, in place of 2,000 and 8 MB")

// A repository of many files and much history goes in, again and comes back.
func TestLarge(t *testing.T) {
	files, history := 2000, 8<<20
	if *large {
		files, history = 50_000, 1<<30
	}
	w := newWorld(t, func(dir string) {
		cmd := gitCommand(t, dir, "fast-import", "--quiet")
		cmd.Stdin = imported(files, history)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("fast-import: %v: %s", err, out)
		}
		git(t, dir, "reset", "-q", "--hard", "main")
	})
	w.options.Depth = -1
	w.send()
	if got, want := git(t, w.guest, "rev-list", "--count", "HEAD"), git(t, w.host, "rev-list", "--count", "HEAD"); got != want {
		t.Errorf("%s commits went, of %s", got, want)
	}
	write(t, w.host+"/d7/f7", "changed here\n")
	n, done, err := w.again(send.Options{})
	if err != nil || !done.Done || n > 64<<10 {
		t.Fatalf("%d bytes, %+v, %v", n, done, err)
	}
	w.same("the host's", w.host)
	write(t, w.guest+"/d9/f9", "changed there\n")
	write(t, w.guest+"/new", "new\n")
	git(t, w.guest, "add", "new")
	w.returns()
}

// imported is a history for git fast-import: a commit of many files, and commits of a file that
// no compression makes smaller.
func imported(files, history int) *bytes.Buffer {
	var b bytes.Buffer
	commit := func() {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter a <a@b> 1700000000 +0000\ndata 1\nx\n")
	}
	commit()
	for i := range files {
		text := fmt.Sprintf("file %d\n", i)
		fmt.Fprintf(&b, "M 100644 inline d%d/f%d\ndata %d\n%s\n", i%100, i, len(text), text)
	}
	const each = 4 << 20
	random := rand.NewChaCha8([32]byte{1})
	for range history / each {
		commit()
		text := make([]byte, each)
		_, _ = random.Read(text)
		fmt.Fprintf(&b, "M 100644 inline big\ndata %d\n%s\n", each, text)
	}
	return &b
}
