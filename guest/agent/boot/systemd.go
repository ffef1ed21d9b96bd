package boot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Bounds of asking systemd, which answers late while it is busy starting units; meanwhile
// the last answer counts.
const (
	askLimit   = 10 * time.Second
	answerWait = 50 * time.Millisecond
)

// asker asks systemd how far it is, one question at a time.
type asker struct {
	mu     sync.Mutex    // guards what follows
	last   string        // the last answer
	asking chan struct{} // closed when the present question is answered; nil: there is none
}

// state returns systemd's answer if it comes at once, else its last one.
func (a *asker) state() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == "" {
		a.last = "starting"
	}
	answered := a.asking
	if answered == nil {
		answered = make(chan struct{})
		a.asking = answered
		go a.ask()
	}
	a.mu.Unlock()
	select {
	case <-answered:
	case <-time.After(answerWait):
	}
	a.mu.Lock()
	return a.last
}

func (a *asker) ask() {
	state, err := systemdState()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.last = state
	case a.last != "starting": // it doesn't listen yet, or has no time
		a.last = "unknown"
		logf("ask systemd: %v", err)
	}
	close(a.asking)
	a.asking = nil
}

// systemdState asks systemd on its private socket for root, by D-Bus without a bus
// (https://dbus.freedesktop.org/doc/dbus-specification.html). Running systemctl would take
// many times as long, and hosts ask again and again while an emulated guest boots.
func systemdState() (string, error) {
	conn, err := net.DialTimeout("unix", "/run/systemd/private", askLimit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askLimit)); err != nil {
		return "", err
	}
	// 30 is user 0 in hex digits. Send the call after the answer: systemd doesn't handle
	// what comes together with BEGIN until more comes.
	if _, err := io.WriteString(conn, "\x00AUTH EXTERNAL 30\r\nBEGIN\r\n"); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("authenticate: %w", err)
	}
	if !strings.HasPrefix(line, "OK ") {
		return "", fmt.Errorf("systemd answered %.40q", line)
	}
	if _, err := conn.Write(stateCall()); err != nil {
		return "", err
	}
	for range 1000 { // signals may come before the answer
		kind, body, err := readBusMessage(r)
		if err != nil {
			return "", err
		}
		switch kind {
		case busReturn:
			return stateOf(body)
		case busError:
			return "", errors.New("systemd refused to say its state")
		}
	}
	return "", errors.New("systemd didn't say its state")
}

// The types of bus messages.
const (
	busCall   = 1
	busReturn = 2
	busError  = 3
)

// stateCall is the message that gets the manager's property SystemState.
func stateCall() []byte {
	le := binary.LittleEndian
	align := func(b []byte, n int) []byte { return append(b, make([]byte, (n-len(b)%n)%n)...) }
	text := func(b []byte, s string) []byte {
		b = le.AppendUint32(align(b, 4), uint32(len(s)))
		return append(append(b, s...), 0)
	}
	body := text(text(nil, "org.freedesktop.systemd1.Manager"), "SystemState")
	var fields []byte
	for _, f := range []struct {
		code byte
		kind string
		text string
	}{
		{1, "o", "/org/freedesktop/systemd1"},
		{2, "s", "org.freedesktop.DBus.Properties"},
		{3, "s", "Get"},
		{6, "s", "org.freedesktop.systemd1"},
	} {
		fields = text(append(align(fields, 8), f.code, 1, f.kind[0], 0), f.text)
	}
	fields = append(align(fields, 8), 8, 1, 'g', 0, 2, 's', 's', 0) // the body's signature
	msg := le.AppendUint32([]byte{'l', busCall, 0, 1}, uint32(len(body)))
	msg = le.AppendUint32(msg, 1) // serial
	msg = le.AppendUint32(msg, uint32(len(fields)))
	return append(align(append(msg, fields...), 8), body...)
}

// maxBusMessage bounds what is read of one message.
const maxBusMessage = 64 << 10

// readBusMessage reads one message and returns its type and body.
func readBusMessage(r io.Reader) (kind byte, body []byte, err error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	le := binary.LittleEndian
	size, fields := le.Uint32(head[4:]), le.Uint32(head[12:])
	if head[0] != 'l' || size > maxBusMessage || fields > maxBusMessage {
		return 0, nil, errors.New("systemd sent a message we can't read")
	}
	fields += (8 - fields%8) % 8
	rest := make([]byte, fields+size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return 0, nil, err
	}
	return head[1], rest[fields:], nil
}

// stateOf reads a variant that holds a string.
func stateOf(body []byte) (string, error) {
	if len(body) < 8 || string(body[:3]) != "\x01s\x00" {
		return "", errors.New("systemd's state is no string")
	}
	n := binary.LittleEndian.Uint32(body[4:])
	if n > 20 || int(n) > len(body)-8 {
		return "", errors.New("systemd's state is no word")
	}
	return string(body[8 : 8+n]), nil
}
