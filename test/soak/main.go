// Command soak is what a guest runs whose VMM is to be killed: it writes and syncs
// files whose every byte follows from a seed, and reads them again, in the same boot and
// in the next one. It owns the order of what is done to the files and what they hold then.
//
// It knows nothing of who kills it and when: its caller says how much of each directory's
// work was reported, and it works out the rest from the seed.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// The lines it prints: "checked FILES BYTES" once, then "done DIR N" after each thing
// done and synced, and "wrong WHAT" of a file that isn't what it was. A "done" waits for
// a line with its directory's number, so that the reader never lags behind by more than one.
func main() {
	seed := flag.Uint64("seed", 0, "what all follows from")
	check := flag.Bool("check", false, "only read what is there")
	trim := flag.Int("trim", 0, "after how many things done the last directory's file system discards what it has free; 0: never")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: soak [-seed N] [-check] [-trim N] DIR=DONE...   the first directory is a shell's")
	}
	flag.Parse()
	s := &soak{say: make(chan string)}
	for i, arg := range flag.Args() {
		dir, done, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(done)
		if err != nil {
			flag.Usage()
			os.Exit(2)
		}
		s.work = append(s.work, newWork(*seed, i, dir, n))
	}
	s.spoken.Go(func() { s.speak(os.Stdout) })
	s.checkAll(!*check)
	if s.wrong == 0 && !*check && len(s.work) > 0 {
		s.work[len(s.work)-1].trim = *trim
		s.live()
	}
	close(s.say)
	s.spoken.Wait()
	if s.wrong > 0 {
		os.Exit(1)
	}
}

// soak is all of a guest's work.
type soak struct {
	work []*work
	say  chan string

	mu    sync.Mutex
	wrong int

	spoken sync.WaitGroup
}

func (s *soak) speak(out io.Writer) {
	for line := range s.say {
		_, _ = io.WriteString(out, line+"\n") // nobody is left to tell
	}
}

// found tells of a wrong file, and what other ways to read it say.
func (s *soak) found(w *work, what string) {
	s.mu.Lock()
	s.wrong++
	s.mu.Unlock()
	s.say <- fmt.Sprintf("wrong %s, %d done: %s", w.dir, w.done, what)
}

// checkAll reads everything that was there before this run: cold, again from memory by
// way of another program, and, if this machine is ours, cold again.
func (s *soak) checkAll(ours bool) {
	files, bytes := 0, int64(0)
	each := func(how string, check func(w *work) (int, int64, error)) {
		for _, w := range s.work {
			f, b, err := check(w)
			if err != nil {
				s.found(w, how+": "+err.Error())
			}
			files, bytes = files+f, bytes+b
		}
	}
	each("cold", (*work).check)
	each("through a pipe", (*work).checkCat)
	if s.wrong > 0 {
		each("again", (*work).check)
	}
	if ours {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			s.say <- "wrong: drop caches: " + err.Error()
		}
		each("cold again", (*work).check)
	}
	s.say <- fmt.Sprintf("checked %d %d", files, bytes)
}

// live works in all directories at once until it is killed, or its input ends.
func (s *soak) live() {
	heard := make([]chan bool, len(s.work))
	var working sync.WaitGroup
	for i, w := range s.work {
		heard[i] = make(chan bool, 1)
		working.Go(func() {
			for ok := true; ok; _, ok = <-heard[i] {
				if err := w.step(); err != nil {
					s.found(w, err.Error())
					return
				}
				s.say <- fmt.Sprintf("done %d %d", i, w.done)
			}
		})
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if i, err := strconv.Atoi(in.Text()); err == nil && i >= 0 && i < len(heard) {
			heard[i] <- true
		}
	}
	for _, c := range heard {
		close(c)
	}
	working.Wait()
}

// work is one directory's.
type work struct {
	dir   string
	shell bool // a shell writes numbers; else the files of a plan
	plan  *plan
	done  int // things done and synced; the next one may be done too, or half
	next  op  // of a plan
	trim  int // after how many things done free space is discarded; 0: never
}

func newWork(seed uint64, i int, dir string, done int) *work {
	w := &work{dir: dir, shell: i == 0, plan: newPlan(seed, uint64(i)), done: done}
	if !w.shell {
		for range done {
			w.plan.apply(w.plan.draw())
		}
		w.next = w.plan.draw()
	}
	return w
}

// check reads all files of a directory.
func (w *work) check() (files int, bytes int64, err error) {
	if w.shell {
		for n := w.firstMark(); n <= w.done; n++ {
			got, err := os.ReadFile(w.mark(n))
			if err == nil && string(got) != fmt.Sprintln(n) {
				err = fmt.Errorf("%s reads %q", w.mark(n), got)
			}
			if err != nil {
				return files, bytes, err
			}
			files, bytes = files+1, bytes+int64(len(got))
		}
		return files, bytes, nil
	}
	for slot := range w.plan.files {
		n, err := w.checkSlot(slot)
		if err != nil {
			return files, bytes, err
		}
		if n > 0 {
			files, bytes = files+1, bytes+n
		}
	}
	return files, bytes, nil
}

// checkSlot reads one file. What the next thing may have done to it is right too.
func (w *work) checkSlot(slot int) (int64, error) {
	old, next := w.plan.files[slot], (*file)(nil)
	pending := w.next.slot == slot
	if pending {
		next = w.next.on(old)
	}
	if old == nil && (!pending || next == nil) {
		return 0, nil
	}
	path := w.path(slot)
	got, err := os.ReadFile(path)
	if os.IsNotExist(err) && pending && w.next.kind != opAppend && w.next.kind != opOverwrite && w.next.kind != opReplace {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	complaint := old.differs(got)
	if complaint == "" || pending && w.next.mayBe(old, next, got) {
		return int64(len(got)), nil
	}
	return 0, fmt.Errorf("%s, pending %v (%+v): %s", path, pending, w.next, complaint)
}

// checkCat has another program read files that nothing may have touched, and reads
// what that says from a pipe: their pages go there without being copied.
func (w *work) checkCat() (files int, bytes int64, err error) {
	var paths []string
	var want []byte
	if w.shell {
		for n := w.firstMark(); n <= w.done; n++ {
			paths, want = append(paths, w.mark(n)), fmt.Appendln(want, n)
		}
	}
	for slot, f := range w.plan.files {
		if f != nil && slot != w.next.slot {
			paths, want = append(paths, w.path(slot)), append(want, f.content()...)
		}
	}
	if len(paths) == 0 {
		return 0, 0, nil
	}
	return len(paths), int64(len(want)), cat(paths, want)
}

// step does the next thing, has it synced, and reads the file again.
func (w *work) step() error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	if w.shell {
		if err := shellMark(w.dir, w.firstMark(), w.done); err != nil {
			return err
		}
		w.done++
		return nil
	}
	o := w.next
	if err := o.do(w.path(o.slot), w.plan.files[o.slot]); err != nil {
		return fmt.Errorf("%+v: %w", o, err)
	}
	w.plan.apply(o)
	w.done++
	w.next = w.plan.draw()
	if w.trim > 0 && w.done%w.trim == 0 {
		if err := trim(w.dir); err != nil {
			return fmt.Errorf("trim: %w", err)
		}
	}
	for _, look := range o.looks {
		if look.cold {
			evict(w.path(look.slot))
		}
		if _, err := w.checkSlot(look.slot); err != nil {
			return fmt.Errorf("read again, evicted %v: %w", look.cold, err)
		}
	}
	return nil
}

func (w *work) path(slot int) string { return filepath.Join(w.dir, strconv.Itoa(slot)) }

// marks is how many numbers a shell has: each a file with its number.
const marks = 40

func (w *work) firstMark() int    { return max(1, w.done-marks+1) }
func (w *work) mark(n int) string { return filepath.Join(w.dir, strconv.Itoa(n)) }
