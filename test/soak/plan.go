package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// slots is how many files a directory has at most.
const slots = 16

// plan is the order of what is done to a directory's files, and what they hold by now.
type plan struct {
	rnd   *rand.Rand
	files [slots]*file
	drawn uint64
}

func newPlan(seed, which uint64) *plan { return &plan{rnd: rand.New(rand.NewPCG(seed, which))} }

// file is what one holds: zeros, and over them what was written, the last on top.
type file struct {
	size    int64
	written []span
}

// span is bytes that one write made.
type span struct {
	from, to int64
	gen      uint64 // which one
}

type kind int

const (
	opCreate  kind = iota
	opReserve      // room is taken for the whole file, and a part of it written
	opAppend
	opOverwrite // in place
	opReplace   // another file takes its name
	opDelete
)

// way is how something is made to last.
type way int

const (
	byFile way = iota // fsync
	byData            // fdatasync
	byAll             // sync
	ways
)

// op is one thing done to a file.
type op struct {
	slot     int
	kind     kind
	size     int64 // of a new file
	from, to int64 // what is written
	chunk    int64 // at once
	gen      uint64
	way      way
	looks    []look // what is read again after it
}

// look is one file to read.
type look struct {
	slot int
	cold bool // from the disk
}

// Sizes of files, in bytes.
const (
	smallest, small, large = 60, 12 << 10, 200 << 10
	maxSize                = 400 << 10
	maxSpans               = 12
)

// draw says what comes next. It changes no file: see apply.
func (p *plan) draw() op {
	p.drawn++
	o := op{slot: p.rnd.IntN(slots), gen: p.drawn, way: way(p.rnd.IntN(int(ways))), chunk: 1 + p.rnd.Int64N(32<<10)}
	f := p.files[o.slot]
	o.size = 2 + p.rnd.Int64N([]int64{smallest, smallest, small, small, large}[p.rnd.IntN(5)])
	dice := p.rnd.IntN(8)
	switch {
	case f == nil && dice < 2:
		o.kind, o.from = opReserve, p.rnd.Int64N(o.size)
		o.to = o.from + 1 + p.rnd.Int64N(o.size-o.from)
	case f == nil:
		o.kind, o.to = opCreate, o.size
	case dice == 0:
		o.kind = opDelete
	case dice < 3 || len(f.written) >= maxSpans || f.size > maxSize:
		o.kind, o.to = opReplace, o.size
	case dice < 5:
		o.kind, o.from = opAppend, f.size
		o.to = f.size + 1 + p.rnd.Int64N(small)
	default:
		o.kind, o.from = opOverwrite, p.rnd.Int64N(f.size)
		o.to = o.from + 1 + p.rnd.Int64N(f.size-o.from)
	}
	o.looks = []look{{o.slot, false}, {p.rnd.IntN(slots), p.rnd.IntN(2) == 0}}
	if p.rnd.IntN(3) == 0 {
		o.looks = append(o.looks, look{o.slot, true})
	}
	return o
}

func (p *plan) apply(o op) { p.files[o.slot] = o.on(p.files[o.slot]) }

// on is what a file is after it.
func (o op) on(f *file) *file {
	s := span{o.from, o.to, o.gen}
	switch o.kind {
	case opDelete:
		return nil
	case opCreate, opReserve, opReplace:
		return &file{o.size, []span{s}}
	}
	return &file{max(f.size, o.to), append(f.written[:len(f.written):len(f.written)], s)}
}

// mayBe reports whether a file with these bytes is what is left of it, where it was
// begun and perhaps not ended.
func (o op) mayBe(old, next *file, got []byte) bool {
	switch o.kind {
	case opCreate, opReserve:
		return true // nobody was told that it is there
	case opDelete:
		return false // gone, or as before
	case opReplace:
		return next.differs(got) == ""
	}
	was, will := old.content(), next.content()
	if len(got) < len(was) || len(got) > len(will) {
		return false
	}
	for i, b := range was {
		if got[i] != b && got[i] != will[i] {
			return false
		}
	}
	return true // what was appended and not synced may be anything
}

// content are a file's bytes.
func (f *file) content() []byte {
	if f == nil {
		return nil
	}
	b := make([]byte, f.size)
	for _, s := range f.written {
		s.fill(b[s.from:s.to])
	}
	return b
}

// differs says where bytes aren't a file's, "" where they all are.
func (f *file) differs(got []byte) string {
	want := f.content()
	if f == nil || len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	first, last, zeros := -1, 0, 0
	for i := range got {
		if got[i] == want[i] {
			continue
		}
		if first < 0 {
			first = i
		}
		if last = i; got[i] == 0 {
			zeros++
		}
	}
	if first < 0 {
		return ""
	}
	end := min(last+1, first+32)
	return fmt.Sprintf("of %d bytes those from %d to %d are wrong, %d of them zeros: % x and so on, want % x; written %v", len(got), first, last, zeros, got[first:end], want[first:end], f.written)
}

// fill makes the bytes of a span, none of which is zero.
func (s span) fill(b []byte) {
	var word [8]byte
	for i := 0; i < len(b); i += 8 {
		// A multiplication and a shift are enough to make neighbours differ.
		x := (s.gen<<32 + uint64(s.from) + uint64(i) + 1) * 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(word[:], (x^x>>29)|0x0101010101010101)
		copy(b[i:], word[:])
	}
}
