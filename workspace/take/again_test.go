package take_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"banger/guest/work"
	"banger/workspace/send"
)

// again brings the guest's copy to what the host has now, by what differs, and returns how
// many bytes went.
func (w *world) again(options send.Options) (n int64, done work.Synced, err error) {
	w.Helper()
	r, err := send.Open(w.Context(), w.host)
	must(w.T, err)
	r.Options = options
	cmd := w.tool("sync", w.guest)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	must(w.T, err)
	out, err := cmd.StdoutPipe()
	must(w.T, err)
	must(w.T, cmd.Start())
	from := bufio.NewReaderSize(out, work.MaxHead)
	c, err := send.ReadCopy(from)
	must(w.T, err)
	to := &counted{w: in}
	if err = r.Update(w.Context(), c, []string{w.record.Base, w.record.TakenHead}, to); err == nil {
		must(w.T, in.Close())
		must(w.T, work.ReadLine(from, &done))
	}
	_ = in.Close()
	if werr := cmd.Wait(); werr != nil {
		w.Fatalf("sync: %v: %s", werr, said.String())
	}
	if err != nil {
		return 0, done, err
	}
	guest := w.guest
	w.record, err = r.Record(w.Context(), guest)
	must(w.T, err)
	w.record.Sent, err = r.Snapshot(w.Context())
	must(w.T, err)
	return to.n, done, nil
}

type counted struct {
	w interface{ Write([]byte) (int, error) }
	n int64
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// mine says what a person sees of a repository.
func (w *world) mine(dir string) string {
	w.Helper()
	return fmt.Sprintf("%q\n%s\n%s\n%s\n%s", w.files(dir), git(w.T, dir, "status", "--porcelain"), git(w.T, dir, "ls-files", "-s", "-t"), git(w.T, dir, "rev-parse", "HEAD"), git(w.T, dir, "rev-parse", "--symbolic-full-name", "HEAD"))
}

// moves are what happens on a host between two times that a repository goes in.
var moves = map[string]func(t *testing.T, dir string){
	"nothing":         func(*testing.T, string) {},
	"a change":        func(t *testing.T, dir string) { write(t, dir+"/a.txt", "changed\n") },
	"a staged change": func(t *testing.T, dir string) { write(t, dir+"/a.txt", "changed\n"); git(t, dir, "add", ".") },
	"staged, and changed again": func(t *testing.T, dir string) {
		write(t, dir+"/new", "staged\n")
		git(t, dir, "add", "new")
		write(t, dir+"/new", "changed\n")
	},
	"a deletion": func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/sub")) },
	"a commit":   func(t *testing.T, dir string) { write(t, dir+"/a.txt", "2\n"); git(t, dir, "commit", "-qam", "2") },
	"commits, and more": func(t *testing.T, dir string) {
		for i := range 3 {
			write(t, fmt.Sprintf("%s/deep/%d/odd \n'\xff", dir, i), fmt.Sprint(i))
			git(t, dir, "add", ".")
			git(t, dir, "commit", "-qm", "more")
		}
		git(t, dir, "mv", "a.txt", "b.txt")
		write(t, dir+"/b.txt", "moved\n")
	},
	"another branch, written anew": func(t *testing.T, dir string) {
		git(t, dir, "checkout", "-q", "-b", "other")
		write(t, dir+"/a.txt", "2\n")
		git(t, dir, "commit", "-qa", "--amend", "-m", "anew")
	},
	"detached": func(t *testing.T, dir string) { git(t, dir, "checkout", "-q", "--detach") },
	"modes and links": func(t *testing.T, dir string) {
		must(t, os.Chmod(dir+"/run.sh", 0o755))
		must(t, os.Remove(dir+"/a.txt"))
		must(t, os.Symlink("run.sh", dir+"/a.txt"))
	},
	"a file becomes a directory, and the other way": func(t *testing.T, dir string) {
		must(t, os.Remove(dir+"/a.txt"))
		write(t, dir+"/a.txt/in", "x\n")
		must(t, os.RemoveAll(dir+"/sub"))
		write(t, dir+"/sub", "a file\n")
		git(t, dir, "add", "-A")
	},
}

// Sent again by what differs, a copy is what it would be sent as a whole.
func TestAgain(t *testing.T) {
	for name, move := range moves {
		t.Run(name, func(t *testing.T) {
			v := newWorld(t, first(t))
			move(t, v.host)
			n, done, err := v.again(send.Options{})
			if err != nil || !done.Done {
				t.Fatalf("%+v, %v", done, err)
			}
			if got, want := v.mine(v.guest), v.mine(v.host); got != want {
				t.Errorf("the copy is\n%s\nwant\n%s", got, want)
			}
			git(t, v.guest, "fsck", "--strict")
			if n > 64<<10 {
				t.Errorf("%d bytes went", n)
			}
			git(t, v.host, "reset", "-q", "--hard")
			git(t, v.host, "clean", "-qfd")
			if _, _, err := v.again(send.Options{}); err != nil || v.mine(v.guest) != v.mine(v.host) {
				t.Errorf("and back: %v\n%s", err, v.mine(v.guest))
			}
		})
	}
}

// The guest's own changes go, as they do when all is sent; what it ignores stays.
func TestAgainOverWork(t *testing.T) {
	w := newWorld(t, first(t))
	write(t, w.guest+"/a.txt", "theirs\n")
	write(t, w.guest+"/untracked", "theirs\n")
	write(t, w.guest+"/ignored", "stays\n")
	must(t, os.Remove(w.guest+"/run.sh"))
	git(t, w.guest, "add", "-A")
	if _, done, err := w.again(send.Options{}); err != nil || !done.Done || w.mine(w.guest) != w.mine(w.host) {
		t.Errorf("%+v, %v\n%s", done, err, w.mine(w.guest))
	}
	if _, err := os.Stat(w.guest + "/ignored"); err != nil {
		t.Error(err)
	}
	// Commits that this host doesn't know are no beginning.
	write(t, w.guest+"/a.txt", "theirs\n")
	git(t, w.guest, "commit", "-qam", "theirs")
	if _, _, err := w.again(send.Options{}); !errors.Is(err, send.ErrAnew) {
		t.Errorf("it says %v", err)
	}
}

// A branch from another commit, with its files and not the checkout's.
func TestAgainFrom(t *testing.T) {
	w := newWorld(t, first(t))
	write(t, w.host+"/a.txt", "2\n")
	git(t, w.host, "commit", "-qam", "2")
	write(t, w.host+"/run.sh", "not committed\n")
	if _, done, err := w.again(send.Options{Branch: "topic", From: "HEAD"}); err != nil || !done.Done {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := git(t, w.guest, "status", "--porcelain", "-b"); got != "## topic" || git(t, w.guest, "rev-parse", "HEAD") != git(t, w.host, "rev-parse", "HEAD") {
		t.Errorf("it is %q", got)
	}
}

// What changes in the guest after it said what it has stays as it is: a file, one that wasn't
// there before, a commit.
func TestAgainMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		file      string // that the host changes, and the guest meanwhile
		meanwhile func(t *testing.T, dir string)
		changed   string
	}{
		"a file":      {"a.txt", func(*testing.T, string) {}, "a.txt"},
		"a new file":  {"new.txt", func(*testing.T, string) {}, "new.txt"},
		"a commit":    {"a.txt", func(t *testing.T, dir string) { git(t, dir, "commit", "-qam", "theirs") }, "HEAD"},
		"a new name":  {"new.txt", func(t *testing.T, dir string) { git(t, dir, "switch", "-q", "-c", "theirs") }, "HEAD"},
		"a lost HEAD": {"new.txt", func(t *testing.T, dir string) { git(t, dir, "checkout", "-q", "--detach") }, "HEAD"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, first(t))
			write(t, w.host+"/"+c.file, "ours\n")
			git(t, w.host, "add", "-A")
			git(t, w.host, "commit", "-qm", "ours")
			plan, finish := w.asked()
			write(t, w.guest+"/"+c.file, "theirs meanwhile\n")
			c.meanwhile(t, w.guest)
			head := git(t, w.guest, "rev-parse", "HEAD")
			done, err := finish(plan)
			if text, _ := os.ReadFile(w.guest + "/" + c.file); err != nil || done.Done || strings.Join(done.Changed, "") != c.changed || string(text) != "theirs meanwhile\n" {
				t.Errorf("%+v, %v, %q", done, err, text)
			}
			if git(t, w.guest, "rev-parse", "HEAD") != head {
				t.Error("HEAD moved")
			}
		})
	}
}

// What ends early is no update, wherever it ends: HEAD and the index stay as they are.
func TestAgainCutOff(t *testing.T) {
	w := newWorld(t, first(t))
	write(t, w.host+"/a.txt", "ours\n")
	write(t, w.host+"/new.txt", "ours\n")
	git(t, w.host, "add", "-A")
	git(t, w.host, "commit", "-qm", "ours")
	state := func() string { return git(t, w.guest, "rev-parse", "HEAD") + git(t, w.guest, "ls-files", "-s") }
	before := state()
	plan, finish := w.asked()
	var p work.Plan
	must(t, json.Unmarshal(plan[:bytes.IndexByte(plan, '\n')], &p))
	tar := len(plan) - int(p.Tar)
	if _, err := finish(nil); err == nil {
		t.Error("nothing came, and it is done")
	}
	for _, at := range []int{tar - 1, tar, tar + 1, tar + 512, tar + (len(plan)-tar-1024)/2/512*512, len(plan) - 1024, len(plan) - 1} {
		_, finish := w.asked()
		if done, err := finish(plan[:at]); err == nil || state() != before {
			t.Errorf("cut after %d bytes of the tar's %d: %+v, %v", at-tar, p.Tar, done, err)
		}
	}
	git(t, w.guest, "reset", "-q", "--hard") // some files may have come
	git(t, w.guest, "clean", "-qfd")
	_, finish = w.asked()
	if done, err := finish(plan); err != nil || !done.Done {
		t.Errorf("whole: %+v, %v", done, err)
	}
	w.same("the host", w.host)
}

// asked lets the guest say what it has, and returns what the host sends then, and what gives the
// guest something of that and returns its answer.
func (w *world) asked() (plan []byte, finish func(plan []byte) (work.Synced, error)) {
	w.Helper()
	r, err := send.Open(w.Context(), w.host)
	must(w.T, err)
	cmd := w.tool("sync", w.guest)
	in, err := cmd.StdinPipe()
	must(w.T, err)
	out, err := cmd.StdoutPipe()
	must(w.T, err)
	must(w.T, cmd.Start())
	from := bufio.NewReaderSize(out, work.MaxHead)
	c, err := send.ReadCopy(from)
	must(w.T, err)
	var b bytes.Buffer
	_ = r.Update(w.Context(), c, []string{w.record.Base}, &b)
	return b.Bytes(), func(plan []byte) (done work.Synced, err error) {
		w.Helper()
		_, _ = in.Write(plan) // it may not want all
		must(w.T, in.Close())
		err = work.ReadLine(from, &done)
		_ = cmd.Wait()
		return done, err
	}
}
