package kmod

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// The binary index of libkmod: a trie in one file, all numbers big-endian.
//
//	file  magic, version, root reference, nodes…
//	node  [prefix NUL] [first, last, reference × (last-first+1)] [count, (priority, value NUL)…]
//
// A reference is the node's offset; its upper four bits say which of the three parts
// the node has. Zero is "no node". Children come before their parent in the file.
const (
	indexMagic    = 0xB007F457
	indexVersion  = 2<<16 | 1
	nodePrefix    = 0x80000000
	nodeValues    = 0x40000000
	nodeChildren  = 0x20000000
	maxIndexBytes = 0x10000000 // offsets have 28 bits
)

// entry is one key of an index. Several entries may share a key; a lookup
// returns them by ascending priority.
type entry struct {
	key, value string
	priority   int
}

// encodeIndex returns the index of the entries. Keys have 7-bit characters only: Parse
// has checked that.
func encodeIndex(entries []entry) ([]byte, error) {
	// Of entries with the same key and priority, depmod writes the later one first. So do
	// we: the files are the same, byte for byte.
	entries = slices.Clone(entries)
	slices.Reverse(entries)
	slices.SortStableFunc(entries, func(a, b entry) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		return a.priority - b.priority
	})
	w := &indexWriter{}
	w.u32(indexMagic, indexVersion, 0)
	root := w.node(entries, 0)
	if len(w.buf) >= maxIndexBytes {
		return nil, fmt.Errorf("module index of %d bytes: the format allows %d", len(w.buf), maxIndexBytes)
	}
	binary.BigEndian.PutUint32(w.buf[8:], root)
	return w.buf, nil
}

type indexWriter struct{ buf []byte }

func (w *indexWriter) u32(values ...uint32) {
	for _, v := range values {
		w.buf = binary.BigEndian.AppendUint32(w.buf, v)
	}
}

// node writes the subtree of entries, sorted, which agree in their first skip
// bytes, and returns its reference.
func (w *indexWriter) node(entries []entry, skip int) uint32 {
	if len(entries) == 0 { // the root of an empty index
		return uint32(len(w.buf))
	}
	end := skip
	if skip > 0 { // the root has no prefix, even if all keys share one
		end += commonPrefix(entries[0].key[skip:], entries[len(entries)-1].key[skip:])
	}
	prefix := entries[0].key[skip:end]
	ends := 0 // how many keys end here
	for ends < len(entries) && len(entries[ends].key) == end {
		ends++
	}
	values, rest := entries[:ends], entries[ends:]
	var first, last byte
	var refs []uint32
	if len(rest) > 0 {
		first, last = rest[0].key[end], rest[len(rest)-1].key[end]
		refs = make([]uint32, int(last-first)+1)
	}
	for len(rest) > 0 {
		c, n := rest[0].key[end], 1
		for n < len(rest) && rest[n].key[end] == c {
			n++
		}
		refs[c-first] = w.node(rest[:n], end+1)
		rest = rest[n:]
	}
	return w.write(prefix, first, last, refs, values)
}

func (w *indexWriter) write(prefix string, first, last byte, refs []uint32, values []entry) uint32 {
	ref := uint32(len(w.buf))
	if prefix != "" {
		ref |= nodePrefix
		w.buf = append(append(w.buf, prefix...), 0)
	}
	if len(refs) > 0 {
		ref |= nodeChildren
		w.buf = append(w.buf, first, last)
		w.u32(refs...)
	}
	if len(values) > 0 {
		ref |= nodeValues
		w.u32(uint32(len(values)))
		for _, v := range values {
			w.u32(uint32(v.priority))
			w.buf = append(append(w.buf, v.value...), 0)
		}
	}
	return ref
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
