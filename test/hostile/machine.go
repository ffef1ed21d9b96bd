package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// machineAttacks are those on the VMM itself: its console, its translator, its disk,
// its random numbers. They take all of the guest's processor, so the others have it for
// themselves most of the time.
func machineAttacks() []attack {
	rest := attack{"", func(until time.Time, _ *atomic.Int64) error { time.Sleep(3 * time.Until(until)); return nil }}
	return []attack{
		{"console noise", consoleNoise}, rest,
		{"console words", consoleWords}, rest,
		{"code", churnCode}, rest,
		{"disk", churnDisk}, rest,
		{"random numbers", drainRandom}, rest,
	}
}

// consoleNoise writes bytes that are no text, and no line ever ends.
func consoleNoise(until time.Time, n *atomic.Int64) error {
	f, err := openConsole()
	if err != nil {
		return err
	}
	defer f.Close()
	for time.Now().Before(until) {
		b := bytes.ReplaceAll(random(4096), []byte("\n"), []byte("\x1b[2J"))
		if _, err := f.Write(b); err != nil {
			return err
		}
		n.Add(int64(len(b)))
	}
	return nil
}

// consoleWords says what only the guest's kernel and the agent should say, but for the
// words after which a guest whose agent is silent is believed to be no more.
func consoleWords(until time.Time, n *atomic.Int64) error {
	f, err := openConsole()
	if err != nil {
		return err
	}
	defer f.Close()
	words := []string{"banger: frozen", "banger-agent: the first line of /init", "banger: init: die: no", `{"error":{"code":"internal"}}`, "\r\x1b]0;title\a\x1b[8m"}
	for time.Now().Before(until) {
		for _, w := range words {
			if _, err := fmt.Fprintln(f, w); err != nil {
				return err
			}
			n.Add(1)
		}
	}
	return nil
}

// churnCode runs ever new code, each piece once, which an emulator translates and keeps.
func churnCode(until time.Time, n *atomic.Int64) error {
	const size, step = 16 << 20, 16
	code, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(code) }()
	for time.Now().Before(until) {
		value := uint32(n.Load())
		for at := 0; at < size; at += step {
			code[at] = 0xb8 // mov value, %eax
			binary.LittleEndian.PutUint32(code[at+1:], value+uint32(at))
			code[at+5] = 0xc3 // ret
		}
		for at := 0; at < size; at += step {
			entry := uintptr(unsafe.Pointer(&code[at]))
			function := &entry // a func value is a pointer to where its code's address stands
			(*(*func())(unsafe.Pointer(&function)))()
			n.Add(1)
			if at%4096 == 0 && time.Now().After(until) {
				return nil
			}
		}
	}
	return nil
}

// churnDisk writes, syncs and punches holes here and there in a file as large as the
// disk has room for.
func churnDisk(until time.Time, n *atomic.Int64) error {
	f, err := os.OpenFile("/churn", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	const size, piece = 1 << 30, 256 << 10
	for time.Now().Before(until) {
		b := random(piece)
		at := int64(binary.LittleEndian.Uint32(b)) % (size / piece) * piece
		if _, err := f.WriteAt(b, at); err != nil {
			_ = f.Truncate(0) // full
			continue
		}
		if b[5]%4 == 0 {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, piece)
		}
		if b[5]%16 == 0 {
			_ = f.Sync()
		}
		n.Add(piece)
	}
	return nil
}

// drainRandom reads random numbers as fast as they come: the host's, where there is a device
// for them.
func drainRandom(until time.Time, n *atomic.Int64) error {
	f, err := os.Open("/dev/hwrng")
	if err == nil {
		_, err = f.Read(make([]byte, 1)) // the kernel may have the name without a device
	}
	if err != nil {
		_ = f.Close() // nil's Close fails, no more
		f, err = os.Open("/dev/random")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for time.Now().Before(until) {
		k, err := io.CopyN(io.Discard, f, 4096)
		n.Add(k)
		if err != nil {
			return err
		}
	}
	return nil
}
