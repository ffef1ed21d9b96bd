package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A test's drive has n sectors, each filled with "0".
func testDrive(t *testing.T, n int) *drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0"), n*sector), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openDrive(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.file.Close() })
	return d
}

// fill writes whole sectors, each with one character of text.
func (d *drive) fill(t *testing.T, first int, text string) {
	t.Helper()
	var data []byte
	for _, c := range []byte(text) {
		data = append(data, bytes.Repeat([]byte{c}, sector)...)
	}
	if err := d.write(data, int64(first*sector)); err != nil {
		t.Fatal(err)
	}
}

// text returns a character for each sector, "!" for one of which a part is another's.
func (d *drive) text(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(d.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for s := 0; s < len(data); s += sector {
		c := data[s]
		if !bytes.Equal(data[s:s+sector], bytes.Repeat([]byte{c}, sector)) {
			c = '!'
		}
		text = append(text, c)
	}
	return string(text)
}

// A log made by hand, with what may be there after a cut: all up to the flush, and of
// what came later any sectors, in any order.
func TestPowerCutLosesWhatWasNotFlushed(t *testing.T) {
	written := func() *drive {
		d := testDrive(t, 6)
		d.fill(t, 0, "aaa")
		d.flush()
		d.fill(t, 2, "bb")
		d.fill(t, 3, "c")
		d.fill(t, 5, "d")
		return d
	}
	cut := func(seed uint64, kept float64) (string, loss) {
		d := written()
		if now := d.text(t); now != "aabc0d" {
			t.Fatalf("before the cut it reads %s", now)
		}
		l, err := d.cutPower(rand.New(rand.NewPCG(seed, 0)), kept)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := d.cutPower(rand.New(rand.NewPCG(seed, 0)), 0); again != (loss{}) || err != nil {
			t.Errorf("a second cut loses %+v, %v", again, err)
		}
		return d.text(t), l
	}
	if got, l := cut(1, 1); got != "aabc0d" || l != (loss{sectors: 3}) {
		t.Errorf("all kept: %s, %+v", got, l)
	}
	seen := map[string]bool{}
	for seed := range uint64(300) {
		for _, kept := range []float64{0, 0.5} {
			got, _ := cut(seed, kept)
			seen[got] = true
			if again, _ := cut(seed, kept); again != got {
				t.Errorf("seed %d leaves %s, then %s", seed, got, again)
			}
		}
	}
	want := map[string]bool{}
	for _, two := range "ab" {
		for _, three := range "0bc" {
			for _, five := range "0d" {
				want["aa"+string([]rune{two, three, '0', five})] = true
			}
		}
	}
	for text := range seen {
		if !want[text] {
			t.Errorf("a cut leaves %s", text)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("of %d outcomes %d were seen: %v", len(want), len(seen), seen)
	}
	if got, l := cut(1, 0); got[2] != 'a' || got[5] != '0' || l != (loss{3, 3}) {
		t.Errorf("none kept: %s, %+v", got, l)
	}
}

// A write of a part of sectors is lost with the sectors.
func TestPowerCutLosesWholeSectors(t *testing.T) {
	d := testDrive(t, 3)
	if err := d.write(bytes.Repeat([]byte("x"), sector), sector/2); err != nil {
		t.Fatal(err)
	}
	if now := d.text(t); now != "!!0" {
		t.Fatalf("before the cut it reads %s", now)
	}
	if l, err := d.cutPower(rand.New(rand.NewPCG(1, 1)), 0); err != nil || l.lost != 2 {
		t.Fatalf("%+v, %v", l, err)
	}
	if now := d.text(t); now != "000" {
		t.Errorf("after the cut it reads %s", now)
	}
}

// A full cache makes room for each write that comes, and no more of them is lost than it holds.
func TestFullCache(t *testing.T) {
	d := testDrive(t, 10)
	d.most = 4
	d.fill(t, 0, "aaaaaaaaaa")
	if d.held != 4 || len(d.before) != 4 || d.counts.settled != 6 {
		t.Errorf("it holds %d of %d sectors, %+v", d.held, len(d.before), d.counts)
	}
	if l, err := d.cutPower(rand.New(rand.NewPCG(1, 1)), 0); err != nil || l.lost != 4 {
		t.Errorf("%+v, %v", l, err)
	}
	if now := d.text(t); bytes.Count([]byte(now), []byte("a")) != 6 {
		t.Errorf("after the cut it reads %s", now)
	}
}

// client speaks NBD as QEMU's does.
type client struct {
	*testing.T
	net.Conn
}

func (c client) send(parts ...any) {
	c.Helper()
	for _, p := range parts {
		if err := binary.Write(c, binary.BigEndian, p); err != nil {
			c.Fatal(err)
		}
	}
}

func (c client) want(parts ...any) {
	c.Helper()
	var want bytes.Buffer
	for _, p := range parts {
		if err := binary.Write(&want, binary.BigEndian, p); err != nil {
			c.Fatal(err)
		}
	}
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want.Bytes()) {
		c.Fatalf("got  %x, %v\nwant %x", got, err, want.Bytes())
	}
}

func (c client) do(kind uint16, at uint64, n uint32, data []byte) {
	c.Helper()
	c.send(uint32(0x25609513), uint16(0), kind, uint64(77), at, n, data)
}

func (c client) done(errno uint32, data []byte) {
	c.Helper()
	c.want(uint32(0x67446698), errno, uint64(77), data)
}

// A machine finds the drive at its plug: it is offered a flush and no FUA, reads what it
// wrote, and loses what it didn't flush.
func TestPlug(t *testing.T) {
	path := testDrive(t, 4).file.Name()
	p, err := plugIn(path, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := client{t, conn}
	c.want([]byte("NBDMAGICIHAVEOPT"), uint16(3))
	c.send(uint32(3))
	c.send([]byte("IHAVEOPT"), uint32(8), uint32(0)) // structured replies
	c.want(uint64(0x3e889045565a9), uint32(8), uint32(1<<31|1), uint32(0))
	c.send([]byte("IHAVEOPT"), uint32(7), uint32(8), uint32(0), uint16(1), uint16(3)) // go, with block sizes
	c.want(uint64(0x3e889045565a9), uint32(7), uint32(3), uint32(12), uint16(0), uint64(4*sector), uint16(5))
	c.want(uint64(0x3e889045565a9), uint32(7), uint32(3), uint32(14), uint16(3), uint32(512), uint32(4096), uint32(32<<20))
	c.want(uint64(0x3e889045565a9), uint32(7), uint32(1), uint32(0))
	a, b := bytes.Repeat([]byte("a"), sector), bytes.Repeat([]byte("b"), sector)
	c.do(1, 0, sector, a)
	c.done(0, nil)
	c.do(3, 0, 0, nil)
	c.done(0, nil)
	c.do(1, sector, sector, b)
	c.done(0, nil)
	c.do(0, 0, 2*sector, nil)
	c.done(0, append(bytes.Clone(a), b...))
	for _, bad := range []struct {
		kind  uint16
		at, n int
	}{{0, 4*sector - 1, 2}, {0, -1, 1}, {0, 0, 1<<25 + 1}, {1, 4 * sector, 1}, {9, 0, 1}} {
		var data []byte
		if bad.kind == 1 {
			data = make([]byte, bad.n)
		}
		c.do(bad.kind, uint64(bad.at), uint32(bad.n), data)
		c.done(uint32(syscall.EINVAL), nil)
	}
	c.do(1, 2*sector, sector, a[:100]) // and dies in the middle of it
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.pull(); err != nil {
		t.Errorf("pull: %v", err)
	}
	if now := p.text(t); now != "ab00" {
		t.Errorf("before the cut it reads %s", now)
	}
	if l, err := p.cutPower(rand.New(rand.NewPCG(1, 1)), 0); err != nil || l != (loss{1, 1}) {
		t.Errorf("%+v, %v", l, err)
	}
	if now := p.text(t); now != "a000" {
		t.Errorf("after the cut it reads %s", now)
	}
}

// A client that isn't one, or that leaves at once, is told apart from one that fails the drive.
func TestPlugWithoutAClient(t *testing.T) {
	for name, says := range map[string]struct {
		bytes string
		good  bool
	}{
		"never comes":      {"", true},
		"leaves":           {"\x00", true},
		"wants nothing":    {"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00", false},
		"isn't one":        {"\x00\x00\x00\x03GET / HTTP/1.1\r\n\r\n", false},
		"talks about disk": {"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x00" + "what is twenty-eight bytes long", false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plugIn(testDrive(t, 1).file.Name(), filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			if says.bytes != "" {
				conn, err := net.Dial("unix", p.listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				client{t, conn}.want([]byte("NBDMAGICIHAVEOPT"), uint16(3))
				client{t, conn}.send([]byte(says.bytes))
				if u, ok := conn.(*net.UnixConn); ok && u.CloseWrite() == nil {
					_, _ = io.Copy(io.Discard, conn) // to the end, however it ends
				}
				_ = conn.Close()
			}
			if err := p.pull(); (err == nil) != says.good {
				t.Errorf("%v", err)
			}
		})
	}
}

// QEMU finds the drive, passes a machine's flushes on, and keeps nothing of what
// wasn't flushed when it is killed.
func TestQEMULosesWhatWasNotFlushed(t *testing.T) {
	p, err := plugIn(testDrive(t, 4).file.Name(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-system-x86_64", "-M", "none", "-display", "none", "-nodefaults", "-monitor", "stdio",
		"-drive", "if=none,format=raw,cache=writeback,id=root,file=nbd:unix:"+p.listener.Addr().String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// 0x61 is an a. A flush is none where nothing was written.
	if _, err := io.WriteString(in, "qemu-io root \"write -P 0x61 0 8192\"\nqemu-io root \"flush\"\nqemu-io root \"write -P 0x62 4096 8192\"\nqemu-io root \"read -P 0x62 4096 8192\"\n"); err != nil {
		t.Error(err)
	}
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "read 8192/8192"); {
		said += lines.Text() + "\n"
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it ends by the signal
	if err := p.pull(); err != nil {
		t.Error(err)
	}
	if now := p.text(t); now != "abb0" {
		t.Errorf("before the cut it reads %s; QEMU says:\n%s", now, said)
	}
	if l, err := p.cutPower(rand.New(rand.NewPCG(1, 1)), 0); err != nil || l != (loss{2, 2}) {
		t.Errorf("%+v, %v", l, err)
	}
	if now := p.text(t); now != "aa00" {
		t.Errorf("after the cut it reads %s", now)
	}
}
