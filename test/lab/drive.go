package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
)

// sector is what a drive writes whole or not at all, as disks do now. The lab's
// kernel is told so.
const sector = 4096

// cached is how many writes of a sector a drive holds back at most: 256 MiB.
const cached = 64 << 10

// drive is a disk with a write cache that a power cut empties. What was written
// since the last flush may be lost, sector by sector, whatever was written first. Its
// file always reads as the machine wrote it; before has what stood there.
type drive struct {
	file   *os.File
	before map[int64][][]byte // by the sector's offset, since the last flush, oldest first
	held   int                // contents in before
	most   int                // bound of held
	counts counts
}

// counts are what a drive was asked for since it was plugged in.
type counts struct{ writes, flushes, settled int }

func openDrive(path string) (*drive, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &drive{file: f, before: map[int64][][]byte{}, most: cached}, nil
}

// size is in bytes.
func (d *drive) size() (int64, error) {
	st, err := d.file.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// write is in the cache when it returns.
func (d *drive) write(p []byte, at int64) error {
	d.counts.writes++
	for s := at - at%sector; s < at+int64(len(p)); s += sector {
		old := make([]byte, sector)
		if _, err := d.file.ReadAt(old, s); err != nil && err != io.EOF { // the last sector may be short
			return err
		}
		if d.held >= d.most {
			d.settle()
		}
		d.before[s] = append(d.before[s], old)
		d.held++
	}
	_, err := d.file.WriteAt(p, at)
	return err
}

// settle makes a sector last that nobody asked it to, as a full cache does.
func (d *drive) settle() {
	for s, old := range d.before {
		d.held -= len(old)
		delete(d.before, s)
		d.counts.settled++
		return
	}
}

// flush makes all last that was written.
func (d *drive) flush() {
	d.counts.flushes++
	clear(d.before)
	d.held = 0
}

// plug is where a machine finds a drive: a socket that serves its one client.
type plug struct {
	*drive
	listener *net.UnixListener
	served   chan error
}

// plugIn opens the drive of a file for a machine to boot from. See pull.
func plugIn(file, socket string) (*plug, error) {
	d, err := openDrive(file)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(socket); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, d.file.Close())
	}
	p := &plug{drive: d, listener: l, served: make(chan error, 1)}
	go func() {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			err = nil // the machine never came
		}
		if conn != nil {
			err = errors.Join(d.serve(conn), conn.Close())
		}
		p.served <- err
	}()
	return p, nil
}

// pull waits until all is done that the ended machine asked for. The drive is still there.
func (p *plug) pull() error {
	_ = p.listener.Close() // it may wait for a client still
	return <-p.served
}

// loss is what a power cut took.
type loss struct{ sectors, lost int }

// cutPower loses each sector that was written since the last flush, but for a share kept
// between 0 and 1: it holds what it held at the flush, or at a moment between.
func (d *drive) cutPower(rnd *rand.Rand, kept float64) (loss, error) {
	l := loss{sectors: len(d.before)}
	for _, s := range slices.Sorted(maps.Keys(d.before)) {
		if rnd.Float64() < kept {
			continue
		}
		old := d.before[s]
		if _, err := d.file.WriteAt(old[rnd.IntN(len(old))], s); err != nil {
			return l, fmt.Errorf("lose a sector: %w", err)
		}
		l.lost++
	}
	d.flush()
	return l, nil
}
