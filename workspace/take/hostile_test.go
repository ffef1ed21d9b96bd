package take_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/guest/work"
	"banger/workspace/take"
)

// all says everything of the files below a directory: name, mode, content.
func all(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := []byte{}
		if info.Mode().IsRegular() {
			text, err = os.ReadFile(path)
		}
		fmt.Fprintf(&b, "%s %v %x\n", path, info.Mode(), text)
		return err
	}))
	return b.String()
}

// liar is a guest that says and sends what it wants.
type liar struct {
	*world
	dir string // its repository, in which anything can be made
}

func newLiar(t *testing.T) liar {
	w := newWorld(t, first(t))
	return liar{w, w.guest}
}

// object writes an object, however wrong it is.
func (l liar) object(kind, text string) string {
	l.Helper()
	cmd := gitCommand(l.T, l.dir, "hash-object", "-t", kind, "-w", "--stdin", "--literally")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// tree writes a tree of entries of mode, name and object.
func (l liar) tree(entries ...[3]string) string {
	var b strings.Builder
	for _, e := range entries {
		id, err := hex.DecodeString(e[2])
		must(l.T, err)
		b.WriteString(e[0] + " " + e[1] + "\x00" + string(id))
	}
	return l.object("tree", b.String())
}

func (l liar) commit(tree string, parents ...string) string {
	text := "tree " + tree + "\n"
	for _, p := range parents {
		text += "parent " + p + "\n"
	}
	return l.object("commit", text+"author a <a@b> 1700000000 +0000\ncommitter a <a@b> 1700000000 +0000\n\nx\n")
}

// pack makes a pack of these objects, whatever they name.
func (l liar) pack(objects ...string) []byte {
	l.Helper()
	cmd := gitCommand(l.T, l.dir, "pack-objects", "-q", "--stdout")
	cmd.Stdin = strings.NewReader(strings.Join(objects, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		l.Fatal(err)
	}
	return out
}

func line(h work.Head) []byte {
	text, _ := json.Marshal(h)
	return append(text, '\n')
}

func says(parts ...[]byte) take.Source {
	return func(_ context.Context, _ string, to io.Writer) error {
		_, err := to.Write(bytes.Join(parts, nil))
		return err
	}
}

// A guest can send anything. What isn't well is refused, with a reason, and nothing of the
// user's changes, in the repository or beside it.
func TestHostileGuest(t *testing.T) {
	l := newLiar(t)
	blob := l.object("blob", "x\n")
	base := l.record.Base
	tree := func(entries ...[3]string) (string, []byte) {
		tr := l.tree(entries...)
		c := l.commit(tr, base)
		return c, l.pack(blob, tr, c)
	}
	limits := take.Usual
	limits.Paths, limits.Objects, limits.Files, limits.Bytes, limits.Silence = 100_000, 10_000, 64<<20, 1<<20, time.Minute
	short := limits
	short.Silence = 50 * time.Millisecond
	quick := limits
	quick.Time = 50 * time.Millisecond
	good, goodPack := tree([3]string{"100644", "fine", blob})
	bomb := l.tree([3]string{"100644", "f", blob})
	bombs := []string{blob, bomb}
	for range 12 {
		var e [][3]string
		for i := range 10 {
			e = append(e, [3]string{"40000", fmt.Sprint(i), bomb})
		}
		bomb = l.tree(e...)
		bombs = append(bombs, bomb)
	}
	bombed := l.commit(bomb, base)
	deep := l.tree([3]string{"100644", "f", blob})
	deeps := []string{blob, deep}
	for range 600 {
		deep = l.tree([3]string{"40000", "d", deep})
		deeps = append(deeps, deep)
	}
	deepest := l.commit(deep, base)
	zeros := l.object("blob", strings.Repeat("\x00", 80<<20))
	large := l.tree([3]string{"100644", "zeros", zeros})
	largest := l.commit(large, base)
	lost := strings.Repeat("ab", 20)
	orphan := l.commit(l.tree([3]string{"100644", "fine", blob}), lost)
	module := l.object("blob", "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n")

	type lie struct {
		source take.Source
		limits take.Limits
		want   string
	}
	sends := func(c string, pack []byte) take.Source {
		return says(line(work.Head{Git: true, Head: c, Work: c}), pack)
	}
	named := func(entries ...[3]string) take.Source { c, p := tree(entries...); return sends(c, p) }
	forever := func(first []byte) take.Source {
		return func(ctx context.Context, _ string, to io.Writer) error {
			for {
				if _, err := to.Write(first); err != nil {
					return err
				}
				first = bytes.Repeat([]byte{'x'}, 4096)
			}
		}
	}
	waits := func(parts ...[]byte) take.Source {
		return func(ctx context.Context, base string, to io.Writer) error {
			if err := says(parts...)(ctx, base, to); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	lhost, lrecord := l.host, l.record
	for name, l := range map[string]lie{
		"a line without end":      {forever(nil), limits, "first line"},
		"no JSON":                 {says([]byte("hello\n")), limits, "first line can't be read"},
		"nothing":                 {says(), limits, "EOF"},
		"a ref":                   {says(line(work.Head{Git: true, Work: "refs/heads/main"}), goodPack), limits, "calls a commit"},
		"an option":               {says(line(work.Head{Git: true, Work: "--output=/tmp/x"}), goodPack), limits, "calls a commit"},
		"a commit of none":        {says(line(work.Head{Git: true, Work: lost, Head: lost}), goodPack), limits, "no commit that it sent"},
		"a blob":                  {says(line(work.Head{Git: true, Work: blob, Head: blob}), goodPack), limits, "no commit that it sent"},
		"another newest commit":   {says(line(work.Head{Git: true, Work: good, Head: orphan}), goodPack), limits, "no commit that it sent"},
		"other files":             {says(line(work.Head{Git: true, Work: base, Head: good}), goodPack), limits, ""},
		"no pack":                 {says(line(work.Head{Git: true, Work: good, Head: good}), []byte("hello")), limits, "index-pack"},
		"half a pack":             {says(line(work.Head{Git: true, Work: good, Head: good}), goodPack[:len(goodPack)-25]), limits, "index-pack"},
		"more than a pack":        {says(line(work.Head{Git: true, Work: good, Head: good}), goodPack, bytes.Repeat([]byte{'x'}, 300<<10)), limits, "goes on after its pack"},
		"a changed pack":          {says(line(work.Head{Git: true, Work: good, Head: good}), append(append([]byte{}, goodPack[:40]...), append([]byte{goodPack[40] ^ 1}, goodPack[41:]...)...)), limits, "index-pack"},
		"too much":                {forever(append(line(work.Head{Git: true, Work: good, Head: good}), goodPack[:20]...)), limits, ""},
		"silence":                 {waits(line(work.Head{Git: true, Work: good, Head: good}), goodPack[:20]), short, "has sent nothing for"},
		"silence after the pack":  {waits(line(work.Head{Git: true, Work: good, Head: good}), goodPack), short, "has sent nothing for"},
		"too long":                {waits(line(work.Head{Git: true, Work: good, Head: good}), goodPack[:20]), quick, "takes too long"},
		".git":                    {named([3]string{"100644", ".git", blob}), limits, ".git"},
		".GIT":                    {named([3]string{"100644", ".GIT", blob}), limits, ".git"},
		"git~1":                   {named([3]string{"100644", "git~1", blob}), limits, ".git"},
		".git as HFS reads it":    {named([3]string{"100644", ".g\u200cit", blob}), limits, ".git"},
		"..":                      {named([3]string{"100644", "..", blob}), limits, "'..'"},
		"a path":                  {named([3]string{"100644", "a/b", blob}), limits, "full path"},
		"no name":                 {named([3]string{"100644", "", blob}), limits, "empty"},
		"a device":                {named([3]string{"20644", "dev", blob}), limits, ""},
		"set-user-ID":             {named([3]string{"104755", "su", blob}), limits, ""},
		"twice one name":          {named([3]string{"100644", "a", blob}, [3]string{"100644", "a", blob}), limits, "duplicate"},
		"a repository":            {named([3]string{"160000", "sub", lost}), limits, "a repository of its own"},
		"a link as .gitmodules":   {named([3]string{"120000", ".gitmodules", blob}), limits, "gitmodules"},
		"an option as an address": {sends(l.moduled(module)), limits, "gitmodules"},
		"a tree that isn't there": {sends(l.commit(lost, base), l.pack(l.commit(lost, base))), limits, "index-pack"},
		"a parent that isn't":     {sends(orphan, l.pack(blob, orphan, l.tree([3]string{"100644", "fine", blob}))), limits, "index-pack"},
		"a bomb of trees":         {sends(bombed, l.pack(append(bombs, bombed)...)), limits, "more than 100000 files"},
		"a pit of trees":          {sends(deepest, l.pack(append(deeps, deepest)...)), limits, "nested more than"},
		"a bomb of zeros":         {sends(largest, l.pack(zeros, large, largest)), limits, "unpacked it has"},
		"a tar that is none":      {says(line(work.Head{}), []byte("hello")), limits, "tar"},
		"too large a tar":         {says(line(work.Head{}), largeTar(t, 2<<20)), limits, "larger than the bound"},
		"too many in the tar":     {forever(line(work.Head{})), limits, ""},
	} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			before := all(t, filepath.Dir(lhost))
			w, err := take.Take(t.Context(), lrecord, l.source, l.limits)
			if err == nil {
				w.Close()
				t.Fatal("it is taken")
			}
			if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(l.want)) {
				t.Errorf("it says %v, want %q", err, l.want)
			}
			if c := banger.CodeOf(err); name != "nothing" && c != banger.CodeInvalid && c != banger.CodeTimeout {
				t.Errorf("the code is %s: %v", c, err)
			}
			if after := all(t, filepath.Dir(lhost)); after != before {
				t.Error("something of the user's changed")
			}
			if left, _ := filepath.Glob(os.Getenv("XDG_CACHE_HOME") + "/banger/packs/*"); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// largeTar is a tar of one file of so many bytes.
func largeTar(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "./f", Mode: 0o644, Size: size}))
	_, err := w.Write(make([]byte, size))
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// moduled is a commit with a .gitmodules, and its pack.
func (l liar) moduled(module string) (string, []byte) {
	tr := l.tree([3]string{"100644", ".gitmodules", module})
	c := l.commit(tr, l.record.Base)
	return c, l.pack(module, tr, c)
}

// A host repository that names programs in every way runs none of them, whatever is taken
// into it or landed.
func TestHostileHost(t *testing.T) {
	w := newWorld(t, func(dir string) {
		first(t)(dir)
		write(t, dir+"/.gitattributes", "* filter=evil diff=evil merge=evil\n*.txt filter=a=b.c\n")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "attributes")
	})
	w.edit()
	canary, script := filepath.Join(t.TempDir(), "ran"), filepath.Join(t.TempDir(), "evil.sh")
	write(t, script, "#!/bin/sh\necho \"$0 $*\" >> "+canary+"\ncat\n")
	must(t, os.Chmod(script, 0o755))
	for _, key := range []string{"core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "core.gitProxy", "core.alternateRefsCommand",
		"diff.external", "diff.evil.textconv", "diff.evil.command", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "filter.a=b.c.smudge", "filter.a=b.c.clean", "merge.evil.driver",
		"gpg.program", "credential.helper", "uploadpack.packObjectsHook", "receive.procReceiveRefs", "sequence.editor", "pager.status", "pager.diff-tree", "trace2.normalTarget"} {
		git(t, w.host, "config", key, script)
	}
	git(t, w.host, "config", "filter.evil.required", "true")
	git(t, w.host, "config", "merge.verifySignatures", "true")
	git(t, w.host, "config", "core.logAllRefUpdates", "always")
	git(t, w.host, "config", "url.ext::"+script+".insteadOf", "/")
	git(t, w.host, "config", "protocol.ext.allow", "always")
	write(t, w.host+"/.git/more", "[filter \"late\"]\n\tclean = "+script+"\n\tsmudge = "+script+"\n")
	git(t, w.host, "config", "include.path", "more")
	for _, name := range []string{"ls-files", "rev-parse", "pack-objects", "update-ref", "merge", "index-pack", "status"} {
		git(t, w.host, "config", "alias."+name, "!"+script)
	}
	for _, hook := range []string{"post-index-change", "fsmonitor-watchman", "pre-commit", "post-checkout", "post-merge", "pre-merge-commit", "reference-transaction", "pre-receive", "update", "post-receive", "post-update", "pre-auto-gc", "post-rewrite"} {
		must(t, os.Symlink(script, w.host+"/.git/hooks/"+hook))
	}
	must(t, os.MkdirAll(w.host+"/.git/info", 0o755))
	write(t, w.host+"/.git/info/attributes", "* filter=evil diff=evil\nstaged.txt filter=late\n")
	now := time.Now().Add(time.Minute)
	must(t, os.Chtimes(w.host+"/a.txt", now, now)) // git has to read it anew
	work := w.take()
	var patch bytes.Buffer
	must(t, work.Patch(t.Context(), &patch))
	if _, err := work.Changes(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := work.Commits(t.Context()); err != nil {
		t.Error(err)
	}
	must(t, work.Keep(t.Context(), "vm1", "fix"))
	l, err := work.Landing(t.Context(), "vm1")
	must(t, err)
	must(t, l.Do(t.Context()))
	if said, err := os.ReadFile(canary); err == nil {
		t.Errorf("programs of the repository ran:\n%s", said)
	}
	if text, err := os.ReadFile(w.host + "/staged.txt"); err != nil || string(text) != "and changed again\n" {
		t.Errorf("what landed is %q, %v", text, err)
	}
}

// Symbolic links in a repository lead no ref out of it.
func TestRefsStayInside(t *testing.T) {
	for _, at := range []string{"refs/banger", "logs", "refs/heads/x", "logs/refs/banger"} {
		w := newWorld(t, first(t))
		w.edit()
		work := w.take()
		away := t.TempDir()
		link := filepath.Join(w.host, ".git", at)
		must(t, os.RemoveAll(link))
		must(t, os.MkdirAll(filepath.Dir(link), 0o755))
		must(t, os.Symlink(away, link))
		if err := work.Keep(t.Context(), "vm1", "x/y"); banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: %v", at, err)
		}
		if left, _ := os.ReadDir(away); len(left) > 0 {
			t.Errorf("%s: there is %v outside", at, left)
		}
	}
}

// What comes from a guest is read by a git whose memory is bounded.
func TestBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	cmd := exec.Command("git", "version")
	if err := cmd.Run(); err != nil {
		t.Skip("no git")
	}
	l := newLiar(t)
	// A delta of a few bytes that says that it makes 100 GB.
	pack := deltaBomb(t)
	_, err := take.Take(t.Context(), l.record, says(line(work.Head{Git: true, Head: l.record.Base, Work: l.record.Base}), pack), take.Usual)
	if banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("it says %v", err)
	}
	// As many objects as a pack can say. Its stream doesn't end: who reads on, waits for ever.
	many := append([]byte("PACK\x00\x00\x00\x02\xff\xff\xff\xff"), pack[12:]...)
	head := line(work.Head{Git: true, Head: l.record.Base, Work: l.record.Base})
	endless := func(ctx context.Context, base string, to io.Writer) error {
		if err := says(head, many)(ctx, base, to); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err = take.Take(t.Context(), l.record, endless, take.Usual); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "objects") {
		t.Errorf("it says %v", err)
	}
}
